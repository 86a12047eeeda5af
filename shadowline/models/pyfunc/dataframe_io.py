"""Reads a row of the table that a served model receives, and the version of the model that answers.

image   base64 of a file's bytes
path    of a file below the folder that SHADOWLINE_IMAGE_ROOT names; without that folder paths are refused
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

ANSWER = ("score", "threshold", "decision", "class_name", "model_version", "fingerprint")  # columns


def read_row(row: Mapping[Hashable, Any]) -> bytes | Path:
    """The image's bytes or its path; raises ValueError for a row that holds neither, or a path outside."""
    encoded, path = row.get("image"), row.get("path")
    if isinstance(encoded, str) and encoded:
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError("column image: not base64; send the file's bytes in base64") from None
    if not isinstance(path, str) or not path:
        raise ValueError("row without an image; give the column image (base64) or path")
    root = os.environ.get("SHADOWLINE_IMAGE_ROOT")
    if not root or not (Path(root) / path).resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(f"path {path!r}: not below SHADOWLINE_IMAGE_ROOT; set it to the folder that may be read")
    return (Path(root) / path).resolve()


def registered_version(folder: Path) -> str:
    """The version that MLflow writes beside a model from the registry; "directory" for any other model."""
    for parent in folder.parents:
        note = parent / "registered_model_meta"
        if note.is_file():
            return str(yaml.safe_load(note.read_text(encoding="utf-8"))["model_version"])
    return "directory"
