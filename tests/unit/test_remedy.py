"""The demo's remedy: promises that are written with their classes, and found there again."""

from __future__ import annotations

import shutil
from pathlib import Path

from conftest import ROOT

from shadowline.params import load_params
from tasks.play import apply_remedy, is_remedied


def test_a_remedy_that_is_applied_is_found_again_and_touches_no_other_class(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    before = load_params(path)
    assert before.demo.remedy and not is_remedied(before)
    apply_remedy.fn(path, before)
    after = load_params(path)
    assert is_remedied(after)
    assert {name: after.promise(name) for name in after.demo.remedy} == after.demo.remedy
    others = set(after.classes) - set(after.demo.remedy)
    assert {name: after.promise(name) for name in others} == {name: before.promise(name) for name in others}
