"""`shadowline stage package`: gather all parts in the one directory that MLflow registers."""

from __future__ import annotations

import shutil

from shadowline.core.atomic_files import copy_file, write_json
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.data.manifest import class_bit_depth, read_manifest
from shadowline.features.encoder import load_encoder
from shadowline.models.calibration_file import load_calibration
from shadowline.models.decoding import Decoding
from shadowline.models.fingerprints import model_fingerprint


def run(params: Params, layout: Layout, progress: Progress) -> str:
    """Write models/inspector/; returns its fingerprint."""
    folder = layout.package
    shutil.rmtree(folder, ignore_errors=True)
    for source in sorted(layout.encoder.iterdir()):
        copy_file(source, folder / source.name)
    copy_file(layout.decoder_weights, folder / "decoder.safetensors")
    calibrations = {}
    for name in sorted(params.classes):
        copy_file(layout.bank(name), folder / f"banks/{name}.safetensors")
        copy_file(layout.identity(name), folder / f"identity/{name}.safetensors")
        calibrations[name] = load_calibration(name, layout).to_dict()
    write_json(folder / "calibration.json", calibrations)
    _decoding(params, layout).write(folder)
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


def _decoding(params: Params, layout: Layout) -> Decoding:
    depths = {name: class_bit_depth(read_manifest([layout.manifest(name)])) for name in sorted(params.classes)}
    return Decoding({name: depth for name, depth in depths.items() if depth}, params.data.exif_orientation)
