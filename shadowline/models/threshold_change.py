"""Checks that two packaged models differ on a class in nothing but the threshold.

before, after = (read_deciding(folder, "bolt") for folder in folders)
check_only_threshold_differs(before, after)        # raises ValueError that names what else differs

Then a score that was stored under one of them is, bit for bit, the score of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shadowline.core.atomic_files import read_json
from shadowline.core.differences import differences
from shadowline.core.hashing import file_sha256
from shadowline.models.fingerprints import class_fingerprints

_TUNED = frozenset({"calibration.threshold", "calibration.target_fpr"})  # the threshold, and the target rate behind it


@dataclass(frozen=True)
class Deciding:
    """Everything in a packaged model that can change a decision on one class."""

    class_name: str
    fingerprint: str  # of all of it
    threshold: float  # robust sigmas
    parts: Mapping[str, Any]  # file → sha256, and the class's calibration as it is packaged


def read_deciding(directory: Path, class_name: str) -> Deciding:
    """Raises ValueError for a class that the model does not know, FileNotFoundError where a part is missing."""
    calibrations = read_json(directory / "calibration.json")
    if class_name not in calibrations:
        raise ValueError(f"class {class_name!r}: not in {directory}; it knows {', '.join(sorted(calibrations))}")
    files = ("encoder.safetensors", "encoder.json", "decoder.safetensors", f"banks/{class_name}.safetensors")
    parts = {"file": {name: file_sha256(directory / name) for name in files}, "calibration": calibrations[class_name]}
    threshold = float(calibrations[class_name]["threshold"])
    return Deciding(class_name, class_fingerprints(directory)[class_name], threshold, parts)


def check_only_threshold_differs(before: Deciding, after: Deciding) -> None:
    """Raises ValueError where anything else differs: then stored scores do not hold for `after`."""
    others = sorted(differences(before.parts, after.parts).keys() - _TUNED)
    if others:
        raise ValueError(
            f"class {after.class_name!r}: {after.fingerprint[:12]} differs from {before.fingerprint[:12]} in "
            f"{', '.join(others)}, not only in its threshold; a new candidate goes through shadow mode"
        )
