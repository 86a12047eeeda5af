from __future__ import annotations

from pathlib import Path

from fixtures.learning import ROOT
from shadowline.core.atomic_files import read_json
from shadowline.core.layout import Layout
from shadowline.core.params import ClassParams, load_params
from shadowline.core.progress import Progress
from shadowline.stages.classes import run


def test_a_bit_depth_makes_the_import_of_its_class_stale_and_of_no_other(tmp_path: Path) -> None:
    plain = ClassParams(source="folder", location="images")
    classes = {"bolt": plain, "nut": plain.model_copy(update={"bit_depth": 12})}
    params = load_params(ROOT / "params.yaml").model_copy(update={"classes": classes})
    run(params, Layout(tmp_path), Progress())
    bolt, nut = (read_json(Layout(tmp_path).classes / name / "source.json") for name in classes)
    assert nut == {**bolt, "bit_depth": 12} and "bit_depth" not in bolt
