"""A program that changes params.yaml changes the lines of what it changes, and no other."""

from __future__ import annotations

import difflib
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from fixtures.learning import ROOT
from shadowline.core.params_file import editing

WRITTEN_BY_A_PERSON = textwrap.dedent(
    """\
    # Line 7

    seed:   7       # of all that is random
    classes:
        bolt:
            source: folder
            location:  '/srv/images'   # the NAS
        nut:   {source: folder,   location: "/srv/images",
                select: nuts}
    train:
        classes: [ bolt,
                   nut ]      # both
        steps: 2.0e+2
    lists:
        - one
        -   two
    """
)


def changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """The lines that are gone, and those that have come."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in lines if line.startswith("- ")], [line[2:] for line in lines if line.startswith("+ ")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text(WRITTEN_BY_A_PERSON, encoding="utf-8")
    return file


def test_an_edit_that_changes_nothing_leaves_every_byte(path: Path) -> None:
    with editing(path):
        pass
    assert path.read_text(encoding="utf-8") == WRITTEN_BY_A_PERSON


def test_a_new_value_changes_one_line(path: Path) -> None:
    with editing(path) as content:
        content["train"]["steps"] = 300
    assert changed(WRITTEN_BY_A_PERSON, path.read_text(encoding="utf-8")) == (
        ["    steps: 2.0e+2"],
        ["    steps: 300"],
    )


def test_a_new_class_adds_its_lines_and_takes_none(path: Path) -> None:
    with editing(path) as content:
        content["classes"]["gear"] = {"source": "folder", "location": "/srv/gear"}
    text = path.read_text(encoding="utf-8")
    gone, come = changed(WRITTEN_BY_A_PERSON, text)
    assert yaml.safe_load(text)["classes"]["gear"] == {"source": "folder", "location": "/srv/gear"}
    assert gone == []
    assert come == ["    gear:", "        source: folder", "        location: /srv/gear"]


CHANGES: dict[str, dict[str, Any]] = {
    "a rate of a class": {"classes": {"textile": {"target_fpr": 0.03}}},
    "a class": {"classes": {"bolt": {"source": "folder", "location": "/srv/bolt", "test_share": 0.2}}},
    "a number": {"gates": {"max_drop": 0.03}},
    "a list": {"train": {"classes": ["solar_mono"]}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_in_the_project_s_own_file_no_other_line_changes(tmp_path: Path, change: dict[str, dict[str, Any]]) -> None:
    before = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(before, encoding="utf-8")
    with editing(path) as content:
        for section, fields in change.items():
            for name, value in fields.items():
                if isinstance(value, dict) and name in content[section]:
                    content[section][name].update(value)
                else:
                    content[section][name] = value
    after = path.read_text(encoding="utf-8")
    gone, come = changed(before, after)
    names = set(next(iter(change.values())))
    assert all(line.split(":")[0].strip() in names for line in gone)
    assert 1 <= len(come) <= len(gone) + 4
    assert yaml.safe_load(after) != yaml.safe_load(before)


def test_what_cannot_be_merged_is_written_all_the_same(path: Path) -> None:
    """An edit of all lines at once says what it shall, and keeps the comments."""
    with editing(path) as content:
        content["classes"] = {"gear": {"source": "folder", "location": "x"}}
        content["train"] = {"classes": ["gear"], "steps": 1}
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text)["classes"] == {"gear": {"source": "folder", "location": "x"}}
    assert yaml.safe_load(text)["train"] == {"classes": ["gear"], "steps": 1}
    assert text.startswith("# Line 7\n")
