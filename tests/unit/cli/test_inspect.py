"""`inspect` names a file that is not there once, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowline.cli import inspect as command
from shadowline.cli.app import main


def test_missing_files_are_named_once_and_no_model_is_loaded(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["shadowline", "inspect", "nope.png", "cam[left]/1.png"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "refused nope.png: no such file\nrefused cam[left]/1.png: no such file\n")


def test_a_refusal_says_the_name_once(capsys: pytest.CaptureFixture[str]) -> None:
    command._refuse(Path("today/a.png"), "a.png: no readable image header; save it anew")
    assert capsys.readouterr().err == "refused today/a.png: no readable image header; save it anew\n"
