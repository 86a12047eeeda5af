"""The inspector as an MLflow pyfunc, logged as code: plain `mlflow models serve` and `load_model` can run it.

Input, one row per image:  image (base64 of the file's bytes) or path, and optionally class_name
Output:                    score, threshold, decision, class_name, model_version, fingerprint; only the last two for an
                           image that no class accepts

A path is read only below the folder that SHADOWLINE_IMAGE_ROOT names; without it paths are refused.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from shadowline.data.labels import Label
from shadowline.models.inspector import Inspector
from shadowline.models.pyfunc.dataframe_io import ANSWER, read_row, registered_version


class InspectorModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["inspector"])
        self.inspector = Inspector.load(folder)
        self.inspector.model_version = registered_version(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows = [self._inspect(row) for row in model_input.to_dict("records")]
        return pd.DataFrame(rows, columns=list(ANSWER))

    def _inspect(self, row: Mapping[Hashable, Any]) -> dict[str, Any]:
        class_name = row.get("class_name")
        requested = class_name if isinstance(class_name, str) and class_name else None
        result = self.inspector.inspect(read_row(row), requested)
        return {name: str(value) if isinstance(value, Label) else value for name, value in result.to_dict().items()}


mlflow.models.set_model(InspectorModel())
