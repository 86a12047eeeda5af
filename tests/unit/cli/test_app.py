"""Every command of the command line, outside of a project: exit code 2, one line, and no file."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from typer.main import get_command

from shadowline.cli.app import app, main

ANYWHERE = {("doctor",), ("init",), ("restore",)}  # they say what they lack themselves


def leaves(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in ((name, group.get_command(None, name)) for name in group.list_commands(None)):
        if hasattr(command, "list_commands"):
            yield from leaves(command, (*names, name))
        else:
            yield (*names, name), command


def arguments_of(command: Any) -> list[str]:
    """A value for everything that must be given."""
    values = []
    for parameter in command.params:
        if parameter.required:
            values += [*([parameter.opts[0]] if parameter.opts[0].startswith("-") else []), _value(parameter)]
    return values


def _value(parameter: Any) -> str:
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return str(get_args(kind)[0])
    return str(next(iter(kind)).value) if isinstance(kind, type) and issubclass(kind, Enum) else "1"


COMMANDS = dict(leaves(get_command(app)))


@pytest.mark.parametrize("names", sorted(set(COMMANDS) - ANYWHERE), ids=" ".join)
def test_outside_of_a_project_a_command_says_so_and_writes_nothing(
    names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["shadowline", *names, *arguments_of(COMMANDS[names])])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, ""), err
    assert err.startswith("error: no project here: ")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
