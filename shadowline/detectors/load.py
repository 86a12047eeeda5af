"""From a place on record to a detector that scores."""

from __future__ import annotations

import json
from pathlib import Path

from shadowline.detectors.candidate import CandidateDetector
from shadowline.detectors.patchcore import PatchCore
from shadowline.detectors.protocol import Detector
from shadowline.inspector import Inspector, resolve


def load_detector(location: str, class_name: str) -> Detector:
    """The detector of one class: an inspector's directory, a PatchCore's, or a `models:/…` URI of either.

    Raises FileNotFoundError, or ValueError where the files are not what was saved.
    """
    directory, _ = resolve(location)
    config = directory / "config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{location}: no config.json in {directory}; name a model's directory or version")
    if "coreset_share" in json.loads(config.read_text(encoding="utf-8")):
        return PatchCore.load(directory)
    return CandidateDetector(Inspector.load(location), class_name)


def place_of(location: str | Path) -> str:
    """A location that means the same from every working directory."""
    text = str(location)
    return text if text.startswith("models:/") else str(Path(text).resolve())
