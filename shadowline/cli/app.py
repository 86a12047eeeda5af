"""The root of the command line: a group that imports a command's module when the command is called.

The commands are the entry points `shadowline.commands` in pyproject.toml, so that no module of the library names
`flows` or `tasks`. Exit codes: 0 fine · 1 the verdict is negative · 2 it could not be done · 130 interrupted.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from io import TextIOWrapper
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from shadowline.cli.errors import INTERRUPTED, STOPPED, error_line, usage_error, write_fault
from shadowline.cli.output import say
from shadowline.core.project import in_project
from shadowline.core.settings import prepare_environment

FAILED = 2  # exit code


@cache
def _commands() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group="shadowline.commands"), key=lambda e: e.name)}


class LazyGroup(TyperGroup):
    """A group whose commands are loaded by name: a Typer becomes a group, a function becomes a command."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_commands())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = _commands().get(cmd_name)
        return None if entry is None else _load(entry)


def _load(entry: EntryPoint) -> TyperGroup | TyperCommand:
    loaded: Any = entry.load()
    command: TyperGroup | TyperCommand
    if isinstance(loaded, typer.Typer):
        _enter_project_first(loaded)
        command = get_group(loaded)
    else:
        single = _new_typer()
        single.command(entry.name)(in_project(loaded))
        command = cast(TyperCommand, get_command(single))
    command.name = entry.name
    return command


def _enter_project_first(group: typer.Typer) -> None:
    """Let every command of a group, and of the groups in it, enter its project."""
    for registered in group.registered_commands:
        assert registered.callback is not None
        registered.callback = in_project(registered.callback)
    for below in group.registered_groups:
        if below.typer_instance is not None:
            _enter_project_first(below.typer_instance)


def _new_typer(cls: type[TyperGroup] | None = None) -> typer.Typer:
    return typer.Typer(cls=cls, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")


app = _new_typer(LazyGroup)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shadowline {version('shadowline')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From many single-class inspection models to one multi-class model."""


def main() -> None:
    """Run a command; whatever ends it early is one line on stderr and exit code 2, an interrupt 130."""
    _print_any_character()
    try:
        prepare_environment()
        code = app(prog_name="shadowline", standalone_mode=False)
    except Exception as error:  # noqa: BLE001 (the one place where errors become text)
        sys.exit(_report(error))
    if code == INTERRUPTED:
        say(STOPPED, colour="yellow", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    """Print the error as a line; the help of a group that was called without a command as it is."""
    usage = usage_error(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message())  # type: ignore[attr-defined]
    else:
        say(f"error: {usage or error_line(error) or write_fault(error)}", colour="red", err=True)
    return FAILED


def _print_any_character() -> None:
    """A name with characters that the terminal's encoding lacks is printed with escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
