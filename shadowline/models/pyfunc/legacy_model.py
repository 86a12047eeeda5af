"""A legacy model as an MLflow pyfunc, logged as code: its input and output are those of the inspector.

Its files lie in artifacts/legacy, beside limits.json with the class and the limits of an image file.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from shadowline.core.atomic_files import read_json
from shadowline.data.images import ImageLimits, open_within
from shadowline.data.labels import Label
from shadowline.models.loader import load_detector
from shadowline.models.pyfunc.dataframe_io import ANSWER, read_row, registered_version


class LegacyPyfunc(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["legacy"])
        described = read_json(Path(context.artifacts["limits"]))
        self.detector = load_detector(str(folder), described.pop("class_name"))
        self.limits = ImageLimits(**described)
        self.version = registered_version(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows = [self._judge(row) for row in model_input.to_dict("records")]
        return pd.DataFrame(rows, columns=list(ANSWER))

    def _judge(self, row: Mapping[Hashable, Any]) -> dict[str, Any]:
        requested = row.get("class_name")
        if isinstance(requested, str) and requested and requested != self.detector.class_name:
            raise ValueError(f"class {requested!r} is not in this model; it knows {self.detector.class_name}")
        score = float(self.detector.score([open_within(read_row(row), self.limits, self.detector.bit_depth)])[0])
        label = Label.ANOMALOUS if score > self.detector.threshold else Label.NORMAL
        answer = (score, self.detector.threshold, str(label), self.detector.class_name)
        return dict(zip(ANSWER, (*answer, self.version, self.detector.fingerprint), strict=True))


mlflow.models.set_model(LegacyPyfunc())
