"""What identifies a packaged model and the part of it that decides on one class."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from shadowline.core.atomic_files import read_json
from shadowline.core.hashing import file_sha256
from shadowline.models.decoding import Decoding


def model_fingerprint(directory: Path) -> str:
    """sha256 over every file of a model directory that can change a decision: all but config.json."""
    digest = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p.name != "config.json"):
        if path.suffix not in {".safetensors", ".json"}:
            continue
        digest.update(path.relative_to(directory).as_posix().encode())
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def class_fingerprints(directory: Path) -> dict[str, str]:
    """Class → sha256 over what can change a decision on that class: encoder, decoder, its bank, its calibration,
    and how its images are decoded.

    Two model versions may share some of them: a class whose fingerprint stays is inspected as before.
    """
    calibrations, decoding = read_json(directory / "calibration.json"), Decoding.load(directory)
    shared = [directory / name for name in ("encoder.safetensors", "encoder.json", "decoder.safetensors")]
    common = [file_sha256(path) for path in shared]
    fingerprints = {}
    for name, calibration in calibrations.items():
        bank = file_sha256(directory / f"banks/{name}.safetensors")
        parts = (*common, bank, json.dumps(calibration, sort_keys=True), *decoding.facts_of(name))
        fingerprints[name] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return fingerprints
