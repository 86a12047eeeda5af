"""`shadowline stage package`: gather all parts in the one directory that MLflow registers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from shadowline.core.atomic_files import replace_file, write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.features.encoder import load_encoder
from shadowline.models.inspector import model_fingerprint


def run(params: Params, layout: Layout, progress: Progress) -> str:
    """Write models/inspector/; returns its fingerprint."""
    folder = layout.package
    shutil.rmtree(folder, ignore_errors=True)
    for source in sorted(layout.encoder.iterdir()):
        _copy(source, folder / source.name)
    _copy(layout.decoder_weights, folder / "decoder.safetensors")
    calibrations = {}
    for name in sorted(params.classes):
        _copy(layout.bank(name), folder / f"banks/{name}.safetensors")
        _copy(layout.identity(name), folder / f"identity/{name}.safetensors")
        described = json.loads(layout.calibration(name).read_text(encoding="utf-8"))
        calibrations[name] = described["calibration"]
    write_json(folder / "calibration.json", calibrations)
    fingerprint = model_fingerprint(folder)
    encoder = load_encoder(layout.encoder)
    config = {
        "fingerprint": fingerprint,
        "encoder_fingerprint": encoder.config.fingerprint,
        "encoder": encoder.config.name,
        "classes": sorted(params.classes),
        "limits": {"max_pixels": params.data.max_pixels, "max_file_bytes": params.data.max_file_bytes},
    }
    write_json(folder / "config.json", config)
    progress.message(f"package: {len(calibrations)} classes, fingerprint {fingerprint[:12]}")
    return fingerprint


def _copy(source: Path, target: Path) -> None:
    with replace_file(target) as temporary:
        shutil.copyfile(source, temporary)
