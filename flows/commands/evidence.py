"""`shadowline audit export`: everything about a period in one signed file, which can be verified without us."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.dates import DAY, utc
from shadowline.cli.output import say
from shadowline.cli.records import open_records
from shadowline.cli.who import ByOrAccount
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import Progress, default_progress


def export(
    since: Annotated[datetime | None, typer.Option("--from", formats=DAY, help="From this day, UTC, on.")] = None,
    until: Annotated[datetime | None, typer.Option("--to", formats=DAY, help="Before this day, UTC.")] = None,
    out: Annotated[Path | None, typer.Option(help="The zip; by default below data/audit/evidence.")] = None,
    by: ByOrAccount = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Pack the evidence of a period: chain, versions, model cards, gates, agreement, rollout, reproductions.

    `python verify.py`, inside of the pack, verifies it anywhere. Exit code 1, and no pack, where the chain does not
    hold.

    Example: `shadowline audit export --from 2026-07-01 --to 2026-10-01`
    """
    from shadowline.records.audit_log.chain_range import BrokenChainError, Period
    from tasks.audit.evidence_pack import export_pack
    from tasks.integrations.audit_log import operator

    now, layout = datetime.now(UTC), Layout()
    period = Period(utc(since), utc(until) or now)
    target = out or layout.evidence / f"{_day(period.since) or 'beginning'}-to-{_day(period.until)}.zip"
    params, progress = load_params(layout.params), Progress() if as_json else default_progress()
    try:
        done = export_pack(open_records(), layout, params, period, target, by or operator(), now, progress)
    except BrokenChainError as error:
        say(str(error), colour="red", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({**done.__dict__, "path": str(done.path)}))
        return
    say(f"{done.path}: {done.num_entries} entries, {done.num_versions} versions, {done.num_files} files")
    if not done.num_versions:
        say("no version was registered in this period; without --from it goes back to the beginning", colour="yellow")
    say(f"the chain's first key is {done.root}; give it to whoever verifies, apart from the pack")


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d}" if at else ""
