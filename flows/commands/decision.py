"""`shadowline audit decision`: the record of one inspected part, with its image scored again."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowline.core.layout import Layout
from shadowline.core.params import load_params

if TYPE_CHECKING:
    from tasks.audit.decision import DecisionReport


def decision(
    trace_id: Annotated[str, typer.Argument(help="Of the inspection, as the gateway answered it.")],
    class_name: Annotated[str, typer.Option("--class", help="Where parts of several classes carry the trace id.")] = "",
    image: Annotated[Path | None, typer.Option(help="The image, where it is not found by itself.")] = None,
    part: Annotated[str, typer.Option(help="Part number; else the trace id that the caller chose.")] = "",
    out: Annotated[Path, typer.Option(help="Folder of the records, each in a folder of its own.")] = Layout().decisions,
    rerun: Annotated[bool, typer.Option("--rerun/--no-rerun", help="Score the image again.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Draw up the record of one decision: model, threshold, image, heat map, entries of the chain; and score it again.

    Exit code 0: it comes out the same, 1: it does not, or something on record does not hold,
    2: the trace id is unknown or the image cannot be found.

    Example: `shadowline audit decision line-7.0042`
    """
    from tasks.audit.decision import DecisionQuery, draw_decision

    layout = Layout()
    asked = DecisionQuery(trace_id, class_name, image, part, rerun)
    drawn = draw_decision(asked, layout, load_params(layout.params).data, datetime.now(UTC), out)
    typer.echo(json.dumps({**drawn.to_dict(), "folder": str(drawn.folder)}) if as_json else _in_words(drawn))
    raise typer.Exit(0 if drawn.record.confirmed else 1)


def _in_words(drawn: DecisionReport) -> str:
    record, entry = drawn.record, drawn.entry
    statement, model, calibration = record.decision, record.model, record.calibration
    lines = [
        f"part         {record.part.number or 'without a number'} ({record.part.class_name})",
        f"decision     {statement.decision}: score {statement.score:.4g}, threshold {statement.threshold:.4g}",
        f"model        {model.name or 'unknown'} {model.version}, {statement.fingerprint[:12]}…",
        f"calibration  {'valid' if calibration.valid else 'not valid: ' + '; '.join(calibration.problems)}",
        f"shown again  {record.rerun.reason}",
        f"on record    entry {entry.number} of the audit chain, signed with {entry.key}",
        f"page         {drawn.folder / 'page.html'}",
    ]
    return "\n".join(lines)
