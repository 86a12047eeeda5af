"""`shadowline audit reproduce`: a registered version made again, and compared with its record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from shadowline.audit.comparison import Item, ReproductionResult

_NUM_NAMED = 20  # items at fault that are listed; the result file has all


def reproduce(
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="The exact version, as `shadowline models` has it.")
    ],
    verify_only: Annotated[bool, typer.Option("--verify-only", help="Compute nothing; read all that is kept.")] = False,
    keep: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the clean place there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Make a registered version again in a clean place, from its commit and its archived inputs, and compare.

    With --verify-only nothing is computed: commit, lock and parameters, every file that is kept in the remote and in
    the registry, and the run's results are read and hashed. Exit code 0: identical, or within tolerance on another
    machine; 1: different; 2: it cannot be tried, since the commit, its lock or the remote is not there.

    Example: `shadowline audit reproduce 3`
    """
    from flows.audit import audit

    found, path = audit(version, Path(), verify_only, keep)
    if as_json:
        typer.echo(json.dumps({**found.to_dict(), "result": str(path)}))
    else:
        _print(found, path)
    raise typer.Exit(1 if found.finding == "different" else 0)


def _print(found: ReproductionResult, path: Path) -> None:
    what = "read" if found.verify_only else "made again"
    table = Table(
        "stage", "finding", "outputs", "seconds", title=f"{found.version}, {what} from {found.git_commit[:12]}"
    )
    for stage in found.stages:
        verdict = f"{stage.finding}{', inherited' if stage.inherited else ''}{_say(escape(stage.failure))}"
        seconds = f"{stage.seconds:.1f}" if stage.seconds else "-"
        table.add_row(stage.name, verdict, _counts(stage.items), seconds)
    for name, items in (("package", found.package), ("registry", found.artifact), ("metrics", found.metrics)):
        if items:
            table.add_row(f"[bold]{name}[/]", str(_worst(items)), _counts(items), "-")
    console = Console()
    console.print(table)
    for line in _remarks(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    colour = "red" if found.finding == "different" else "green"
    console.print(f"[{colour}]{found.finding}[/] · {found.seconds:.0f} s · {path}")


def _remarks(found: ReproductionResult) -> Iterable[str]:
    """What differs, what could not be made again, and what the environment says of it."""
    if found.first_divergence:
        yield f"first stage that diverges: {found.first_divergence}"
    stages = [item for stage in found.stages for item in stage.items]
    bad = [one for one in (*stages, *found.package, *found.artifact, *found.metrics) if one.finding in _bad()]
    yield from (f"  {one.subject}: {one.finding}{_say(one.note)}" for one in bad[:_NUM_NAMED])
    if len(bad) > _NUM_NAMED:
        yield f"  and {len(bad) - _NUM_NAMED} more"
    yield from sorted({f"as archived: {one.note}" for one in stages if one.finding == "as archived"})
    if not found.environment_known:
        yield "environment: not on record"
    yield from (f"environment: {one}" for one in found.environment)
    if not found.verify_only:
        yield f"metrics may be {found.metric_tolerance} apart; times and memory are measured anew, not compared"


def _say(note: str) -> str:
    return f": {note}" if note else ""


def _counts(items: Iterable[Item]) -> str:
    found = [str(item.finding) for item in items]
    return " · ".join(f"{found.count(fromkey)} {fromkey}" for fromkey in dict.fromkeys(found))


def _worst(items: Iterable[Item]) -> str:
    from shadowline.audit.comparison import worst

    return worst(items)


def _bad() -> frozenset[str]:
    from shadowline.audit.comparison import BAD

    return frozenset(BAD)
