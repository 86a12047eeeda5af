"""`shadowline doctor`: whether this machine can run Shadowline, and what to do where it cannot."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from shadowline.cli.output import Table, coloured, print_tables
from shadowline.core.project import anywhere

if TYPE_CHECKING:
    from shadowline.cli.health import HealthCheck

_COLOUR = {"ok": "green", "warning": "yellow", "blocked": "red"}


@anywhere
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> None:
    """Look at versions, device, weights, servers, disk, permissions and clock; takes seconds and changes nothing.

    Exit code 0: nothing blocks, warnings at most, 2: something cannot work.

    Example: `shadowline doctor`
    """
    from shadowline.cli.health import Health, check_all
    from shadowline.core.layout import Layout
    from shadowline.core.settings import Settings

    checks = check_all(Settings(), Layout())
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _print(checks)
    raise typer.Exit(2 if any(check.health is Health.BLOCKED for check in checks) else 0)


def _print(checks: list[HealthCheck]) -> None:
    table = Table("check", "", "found", "what to do")
    for check in checks:
        table.add_row(check.name, coloured(check.health, _COLOUR[check.health]), check.found, check.advice)
    print_tables(table)
