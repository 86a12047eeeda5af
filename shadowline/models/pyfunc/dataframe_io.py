"""The table that a served model receives, and the table that it answers.

image   base64 of a file's bytes
path    of a file below the folder that SHADOWLINE_IMAGE_ROOT names; without that folder paths are refused

A row that cannot be judged has its reason in the column `error`; the other rows are answered. Empty cells are None,
which becomes null in JSON.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ANSWER = ("score", "threshold", "decision", "stop", "class_name", "model_version", "fingerprint", "error")  # columns

Row = Mapping[Hashable, Any]


def answer_rows(
    table: pd.DataFrame, judge: Callable[[bytes | Path, str | None], Mapping[str, Any]], version: str, fingerprint: str
) -> pd.DataFrame:
    """One row of ANSWER per row: what `judge` says of the image and the class that it is sent with, None for none.

    A row that `judge` refuses with ValueError or OSError has no score, and must not pass.
    """
    model = {"model_version": version, "fingerprint": fingerprint}
    answers = [{**model, **_answer(row, judge)} for row in table.to_dict("records")]
    return pd.DataFrame(answers, columns=list(ANSWER), dtype=object).where(lambda cells: cells.notna(), None)


def _answer(row: Row, judge: Callable[[bytes | Path, str | None], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return judge(read_row(row), _class_of(row))
    except (ValueError, OSError) as error:
        return {"class_name": _class_of(row), "stop": True, "error": str(error)}


def _class_of(row: Row) -> str | None:
    class_name = row.get("class_name")
    return class_name if isinstance(class_name, str) and class_name else None


def read_row(row: Row) -> bytes | Path:
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
