"""`data list`: what is there, what is missing, and what it allows to promise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

from fixtures.learning import ROOT
from shadowline.cli.data import app
from shadowline.core.layout import Layout
from shadowline.data.manifest import content_id, empty_manifest, write_manifest

SIZES = {("train", "normal"): 30, ("val", "normal"): 30, ("test", "normal"): 12, ("test", "anomalous"): 30}


def write_slice(layout: Layout, class_name: str) -> None:
    homes = [home for home, count in SIZES.items() for _ in range(count)]
    rows = empty_manifest().reindex(range(len(homes))).drop(columns="bank_only")
    rows = rows.assign(
        image_id=[content_id(f"{class_name}{number}".encode()) for number in range(len(homes))],
        class_name=class_name,
        split=[split for split, _ in homes],
        label=[label for _, label in homes],
        captured_at=pd.NaT,
        **dict.fromkeys(("path", "defect_type", "mask_path", "mode", "source"), ""),
        **dict.fromkeys(("width", "height"), 8),
    )
    write_manifest(rows, layout.manifest(class_name))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["classes"] = {name: {"source": "folder", "location": "images"} for name in ("toothbrush", "bolt")}
    raw["train"]["classes"] = ["bolt"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    monkeypatch.chdir(tmp_path)
    write_slice(Layout(tmp_path), "toothbrush")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "120"})


def test_a_class_that_is_not_imported_is_listed_as_missing(project: Path) -> None:
    listed = run("list", "--json")
    assert listed.exit_code == 0
    assert json.loads(listed.stdout) == {
        "bolt": None,
        "toothbrush": {"train": 30, "val": 30, "test": 42, "tune": 0, "stream": 0},
    }
    table = run("list")
    assert table.exit_code == 0
    assert "class 'bolt': not imported; run `dvc repro import@bolt`" in table.stdout


def test_what_cannot_be_promised_is_said_with_what_can(project: Path) -> None:
    lines = run("list").stdout.splitlines()
    assert any("toothbrush" in line and "6.2%, not 5.0%" in line for line in lines)
    assert (
        "class 'toothbrush': 15 normal images promise a rate of 0.0625, not of calibration.target_fpr 0.05, "
        "which needs 19" in lines
    )
