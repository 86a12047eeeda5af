"""`shadowline audit reproduce`: reproduce a registered version, and compare it with its record."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.running import check_records, running
from shadowline.cli.output import Table, coloured, print_tables, say

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
    with running(check_records):
        from flows.audit import audit

        result, path = audit(version, Path(), verify_only, keep)
    if as_json:
        typer.echo(json.dumps({**result.to_dict(), "result": str(path)}))
    else:
        _print(result, path)
    raise typer.Exit(1 if result.finding == "different" else 0)


def _print(result: ReproductionResult, path: Path) -> None:
    what = "read" if result.verify_only else "made again"
    table = Table(
        "stage", "finding", "outputs", "seconds", title=f"{result.version}, {what} from {result.git_commit[:12]}"
    )
    for stage in result.stages:
        verdict = f"{stage.finding}{', inherited' if stage.inherited else ''}{_say(stage.failure)}"
        seconds = f"{stage.seconds:.1f}" if stage.seconds else "-"
        table.add_row(stage.name, verdict, _counts(stage.items), seconds)
    for name, items in (("package", result.package), ("registry", result.artifact), ("metrics", result.metrics)):
        if items:
            table.add_row(coloured(name, "bold"), str(_worst(items)), _counts(items), "-")
    print_tables(table)
    say(*_remarks(result))
    colour = "red" if result.finding == "different" else "green"
    say(f"{result.finding} · {result.seconds:.0f} s · {path}", colour=colour)


def _remarks(result: ReproductionResult) -> Iterable[str]:
    """Lines on what differs, what could not be reproduced, and how the environment differs."""
    if result.first_divergence:
        yield f"first stage that diverges: {result.first_divergence}"
    stage_items = [item for stage in result.stages for item in stage.items]
    bad = [
        item for item in (*stage_items, *result.package, *result.artifact, *result.metrics) if item.finding in _bad()
    ]
    yield from (f"  {item.subject}: {item.finding}{_say(item.note)}" for item in bad[:_NUM_NAMED])
    if len(bad) > _NUM_NAMED:
        yield f"  and {len(bad) - _NUM_NAMED} more"
    yield from sorted({f"as archived: {item.note}" for item in stage_items if item.finding == "as archived"})
    if not result.environment_known:
        yield "environment: not on record"
    yield from (f"environment: {difference}" for difference in result.environment)
    if not result.verify_only:
        yield f"metrics may be {result.metric_tolerance} apart; times and memory are measured anew, not compared"


def _say(note: str) -> str:
    return f": {note}" if note else ""


def _counts(items: Iterable[Item]) -> str:
    findings = [str(item.finding) for item in items]
    return " · ".join(f"{findings.count(finding)} {finding}" for finding in dict.fromkeys(findings))


def _worst(items: Iterable[Item]) -> str:
    from shadowline.audit.comparison import worst

    return worst(items)


def _bad() -> frozenset[str]:
    from shadowline.audit.comparison import BAD

    return frozenset(BAD)
