"""The root of the command line: a group that imports a command's module when the command is called.

The commands are the entry points `shadowline.commands` in pyproject.toml, so that no module of the library names
`flows` or `tasks`. Exit codes: 0 fine · 1 the verdict is negative · 2 the input cannot be used.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from shadowline.core.settings import prepare_environment


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
        command = get_group(loaded)
    else:
        single = _new_typer()
        single.command(entry.name)(loaded)
        command = cast(TyperCommand, get_command(single))
    command.name = entry.name
    return command


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
    """Run a command; an error that the user can correct ends in one line and exit code 2, not in a traceback."""
    prepare_environment()
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
