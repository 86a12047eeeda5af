"""The calibration of a class, read from the file that the stage `calibrate` wrote."""

from __future__ import annotations

import json

from shadowline.core.layout import Layout
from shadowline.models.calibration import Calibration


def load_calibration(class_name: str, layout: Layout) -> Calibration:
    path = layout.calibration(class_name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no calibration; run `dvc repro calibrate@{class_name}`")
    return Calibration.from_dict(json.loads(path.read_text(encoding="utf-8"))["calibration"])
