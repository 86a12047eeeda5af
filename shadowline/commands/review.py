"""`shadowline review …`: parts that wait for an inspector, and what the inspector says of them."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shadowline.commands.records import open_records
from shadowline.commands.shadow import feedback
from shadowline.paths import Layout

app = typer.Typer(help="Parts that wait for an inspector's label.", no_args_is_help=True)
app.command("label")(feedback)


@app.command("list")
def list_waiting(
    class_name: Annotated[str | None, typer.Argument(help="Product class; else all of them.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many parts, the oldest first.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Parts on which the models disagree, that raised an alarm, or that chance has drawn, and that nobody has labelled.

    Example: `shadowline review list solar_mono`
    """
    from shadowline.kept import waiting_to_dict

    parts = open_records().pairs.waiting_for_review(class_name, limit)
    described = [waiting_to_dict(part, Layout()) for part in parts]
    if as_json:
        typer.echo(json.dumps(described))
        return
    table = Table("class", "image", "trace", "received", "why", "file")
    for one in described:
        why = ", ".join(one["reasons"])
        table.add_row(
            one["class_name"], one["image_id"][:12], one["trace_id"], one["received_at"][:19], why, one["image_path"]
        )
    Console().print(table)
