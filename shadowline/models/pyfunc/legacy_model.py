"""A legacy model as an MLflow pyfunc, logged as code: its input and output are those of the inspector.

Its files lie in artifacts/legacy, beside limits.json with the class and the limits of an image file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from shadowline.core.atomic_files import read_json
from shadowline.data.images import ImageLimits, open_within
from shadowline.data.labels import Label
from shadowline.models.loader import load_detector
from shadowline.models.pyfunc.dataframe_io import answer_rows, registered_version


class LegacyPyfunc(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["legacy"])
        described = read_json(Path(context.artifacts["limits"]))
        self.detector = load_detector(str(folder), described.pop("class_name"))
        self.limits = ImageLimits(**described)
        self.version = registered_version(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        return answer_rows(model_input, self._judge, self.version, self.detector.fingerprint)

    def _judge(self, image: bytes | Path, class_name: str | None) -> dict[str, Any]:
        known = self.detector.class_name
        if class_name not in (None, known):
            raise ValueError(f"class {class_name!r} is not in this model; it knows {known}")
        score, threshold = (
            float(self.detector.score([open_within(image, self.limits, self.detector.bit_depth)])[0]),
            self.detector.threshold,
        )
        label = Label.ANOMALOUS if score > threshold else Label.NORMAL
        values = {"score": score, "threshold": threshold, "decision": str(label), "class_name": known}
        return {**values, "stop": label is Label.ANOMALOUS}


mlflow.models.set_model(LegacyPyfunc())
