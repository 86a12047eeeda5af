"""A copied project pushes to a remote of its own, also by DVC's own commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dvc.config import Config

from tasks.integrations.dvc_remote import NAME, configure_remote


def remote_of(root: Path) -> str:
    """Where DVC itself would push."""
    return str(Config(str(root / ".dvc"))["remote"][NAME]["url"])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project/.dvc").mkdir(parents=True)
    return tmp_path / "project"


def test_the_remote_of_a_copy_lies_in_the_copy(project: Path, tmp_path: Path) -> None:
    assert configure_remote(project) == str(project / "data/remote") == remote_of(project)
    shutil.copytree(project, tmp_path / "copy")
    assert remote_of(tmp_path / "copy") == str(tmp_path / "copy/data/remote")


def test_a_path_that_was_written_absolute_becomes_relative(project: Path) -> None:
    with Config(str(project / ".dvc")).edit("local") as content:
        content["remote"] = {NAME: {"url": str(project / "data/remote")}}
    configure_remote(project)
    text = (project / ".dvc/config.local").read_text()
    assert "url = ../data/remote" in text
    configure_remote(project)
    assert (project / ".dvc/config.local").read_text() == text


def test_a_remote_elsewhere_stays_absolute(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHADOWLINE_DATA_URL", f"file://{tmp_path}/share")
    assert configure_remote(project) == remote_of(project) == f"{tmp_path}/share"


def test_a_checkout_uses_the_remote_of_its_project(project: Path, tmp_path: Path) -> None:
    (tmp_path / "checkout/.dvc").mkdir(parents=True)
    assert configure_remote(tmp_path / "checkout", project) == remote_of(tmp_path / "checkout")
    assert remote_of(tmp_path / "checkout") == str(project / "data/remote")
