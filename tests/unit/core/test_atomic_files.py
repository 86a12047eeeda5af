"""Links, copies and JSON files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from shadowline.core.atomic_files import copy_file, link_or_copy, read_json, write_json


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("content", encoding="utf-8")
    path.chmod(0o444)
    return path


def test_a_link_shares_its_bytes_and_makes_its_folder(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep/er/target.txt"
    link_or_copy(source, target)
    assert target.samefile(source)


def test_without_hard_links_it_is_a_copy_of_the_same_mode(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "copies/target.txt"
    link_or_copy(source, target)
    assert not target.samefile(source)
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("content", 0o444)


def test_what_is_there_already_is_not_written_over(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.txt"
    target.write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError):
        link_or_copy(source, target)
    assert target.read_text() == "mine"


def test_a_copy_replaces_what_is_there_and_leaves_nothing_beside_it(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copies/target.txt"
    copy_file(source, target)
    copy_file(source, target)
    assert [path.name for path in target.parent.iterdir()] == ["target.txt"]
    assert (target.read_text(), target.samefile(source)) == ("content", False)


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = {"name": "Gehäuse", "sizes": [1, 2.5, None]}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value
