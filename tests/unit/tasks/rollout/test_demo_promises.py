"""The demo's acts: promises that are written with their classes, and found there again."""

from __future__ import annotations

import shutil
from pathlib import Path

from fixtures.learning import ROOT
from shadowline.core.params import load_params
from tasks.rollout.demo_migration import Act, act_of, apply_promises


def test_promises_that_are_applied_are_found_again_and_touch_no_other_class(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", path)
    before = load_params(path)
    assert act_of(before) is Act.FIRST
    for promises, act in ((before.demo.sabotage, Act.SABOTAGE), (before.demo.remedy, Act.REMEDY)):
        apply_promises.fn(path, promises)
        after = load_params(path)
        assert act_of(after) is act
        assert promises and {name: after.promise(name) for name in promises} == promises
        others = set(after.classes) - set(promises)
        assert {name: after.promise(name) for name in others} == {name: before.promise(name) for name in others}
