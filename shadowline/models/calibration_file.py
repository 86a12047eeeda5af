"""The calibration of a class, read from the file that the stage `calibrate` wrote."""

from __future__ import annotations

from shadowline.core.atomic_files import read_json
from shadowline.core.layout import Layout
from shadowline.models.calibration import Calibration


def load_calibration(class_name: str, layout: Layout) -> Calibration:
    path = layout.calibration(class_name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no calibration; run `dvc repro calibrate@{class_name}`")
    return Calibration.from_dict(read_json(path)["calibration"])
