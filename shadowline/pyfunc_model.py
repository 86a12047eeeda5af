"""The inspector as an MLflow pyfunc, logged as code: plain `mlflow models serve` and `load_model` can run it.

Input, one row per image:  image (base64 of the file's bytes) or path, and optionally class_name
Output:                    score, threshold, decision, class_name, model_version, fingerprint

A path is read only below the folder that SHADOWLINE_IMAGE_ROOT names; without it paths are refused.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml

from shadowline.inspector import Inspector

_COLUMNS = ("score", "threshold", "decision", "class_name", "model_version", "fingerprint")


class InspectorModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["inspector"])
        self.inspector = Inspector.load(folder)
        self.inspector.model_version = _registered_version(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows = [self._inspect(row) for row in model_input.to_dict("records")]
        return pd.DataFrame(rows, columns=list(_COLUMNS))

    def _inspect(self, row: Mapping[Hashable, Any]) -> dict[str, Any]:
        class_name = row.get("class_name")
        result = self.inspector.inspect(_read(row), class_name if isinstance(class_name, str) and class_name else None)
        return {name: str(value) if name == "decision" else value for name, value in result.to_dict().items()}


def _read(row: Mapping[Hashable, Any]) -> bytes | Path:
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


def _registered_version(folder: Path) -> str:
    """The version that MLflow notes beside a model that it took out of the registry."""
    for parent in folder.parents:
        note = parent / "registered_model_meta"
        if note.is_file():
            return str(yaml.safe_load(note.read_text(encoding="utf-8"))["model_version"])
    return "directory"


mlflow.models.set_model(InspectorModel())
