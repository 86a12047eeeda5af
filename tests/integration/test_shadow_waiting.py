"""The nightly batch: every class that both models judge, from a folder with a folder per class."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.tiny_project import EXTRA_CLASS, Project
from flows.rollout import tick
from flows.shadow import shadow_waiting
from shadowline.records.stores import open_records

NIGHT = datetime(2030, 1, 7, 3, 0, tzinfo=UTC)


def test_one_class_that_fails_keeps_no_other_and_the_night_after_adds_only_what_is_new(planned: Project) -> None:
    """The images count as received at the time that the flow is given."""
    line, records = Path("line"), open_records()
    assert shadow_waiting("") == []
    for name in ("stripes", EXTRA_CLASS):  # one that the rollout does not know
        shutil.copytree(f"factory/{name}/test/good", line / name)
    (line / "dots").mkdir()
    assert shadow_waiting(str(line)) == [], "no candidate is at work yet"
    tick()
    with pytest.raises(ValueError, match="dots: no images"):
        shadow_waiting(str(line), now=NIGHT)
    one = records.rollout.state().of("stripes")
    assert len(records.pairs.table("stripes", one.candidate, one.legacy)) == 12
    shutil.copytree("factory/dots/test/good", line / "dots", dirs_exist_ok=True)
    assert shadow_waiting(str(line), now=NIGHT) == ["dots", "stripes"]
    for name in ("dots", "stripes"):
        one = records.rollout.state().of(name)
        table = records.pairs.table(name, one.candidate, one.legacy)
        assert len(table) == 12
        assert set(table["received_at"]) == {NIGHT}


def test_a_folder_that_is_not_there_says_so(planned: Project) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        shadow_waiting("nowhere")
