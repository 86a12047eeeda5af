"""The stages of the demo: promises that are written with their classes, and found there again."""

from __future__ import annotations

import shutil
from pathlib import Path

from fixtures.learning import ROOT
from shadowline.core.params import load_params
from tasks.rollout.demo_migration import DemoStage, apply_promises, stage_of


def test_promises_that_are_applied_are_found_again_and_touch_no_other_class(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    before = load_params(path)
    assert stage_of(before) is DemoStage.FIRST
    for promises, stage in ((before.demo.sabotage, DemoStage.SABOTAGE), (before.demo.remedy, DemoStage.REMEDY)):
        apply_promises.fn(path, promises)
        after = load_params(path)
        assert stage_of(after) is stage
        assert promises and {name: after.promise(name) for name in promises} == promises
        others = set(after.classes) - set(promises)
        assert {name: after.promise(name) for name in others} == {name: before.promise(name) for name in others}
