"""The inspector as an MLflow pyfunc, logged as code: plain `mlflow models serve` and `load_model` can run it.

Input, one row per image:  image (base64 of the file's bytes) or path, and optionally class_name
Output:                    score, threshold, decision, stop, class_name, model_version, fingerprint, error; empty cells
                           are null: of an image that no class accepts, and of a row that cannot be judged

A path is read only below the folder that SHADOWLINE_IMAGE_ROOT names; without it paths are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from shadowline.data.labels import Label
from shadowline.models.inspector import Inspector
from shadowline.models.pyfunc.dataframe_io import answer_rows, registered_version


class InspectorModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["inspector"])
        self.inspector = Inspector.load(folder)
        self.inspector.model_version = registered_version(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        return answer_rows(model_input, self._inspect, self.inspector.model_version, self.inspector.fingerprint)

    def _inspect(self, image: bytes | Path, class_name: str | None) -> dict[str, Any]:
        values = self.inspector.inspect(image, class_name).to_dict()
        return {name: str(value) if isinstance(value, Label) else value for name, value in values.items()}


mlflow.models.set_model(InspectorModel())
