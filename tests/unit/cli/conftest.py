"""What the tests of commands share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fixtures.learning import ROOT


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the records, not there yet, of a project that this process works in."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHADOWLINE_DATABASE_URL", "sqlite:///records.db")
    return tmp_path / "records.db"
