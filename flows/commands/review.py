"""`shadowline review …`: list the parts that wait for an inspector, and label them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.shadow import Image, InspectorLabel, feedback
from shadowline.cli.output import Table, print_tables
from shadowline.cli.records import open_records
from shadowline.cli.who import By
from shadowline.core.layout import Layout

if TYPE_CHECKING:
    from shadowline.records.stores import Records

app = typer.Typer(help="Parts that wait for an inspector's label.", no_args_is_help=True)


@app.command("list")
def list_waiting(
    class_name: Annotated[str | None, typer.Argument(help="Product class; else all of them.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many parts, the oldest first.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Parts on which the models disagree, that raised an alarm, or that chance has drawn, and that nobody has labelled.

    Example: `shadowline review list solar_mono`
    """
    from shadowline.records.kept_images import waiting_to_dict

    records = open_records()
    parts = records.pairs.waiting_for_review(class_name, limit)
    if class_name is not None and not parts:
        _check_class(class_name, records)
    described = [waiting_to_dict(part, Layout()) for part in parts]
    if as_json:
        typer.echo(json.dumps(described))
    else:
        _print(described)


@app.command("label")
def label_part(
    class_name: Annotated[str, typer.Argument(help="Product class.")],
    image: Image,
    label: InspectorLabel,
    by: By,
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Label a part, so that it waits no longer; the same as `shadowline feedback`.

    Example: `shadowline review label solar_mono 9c1d03aa41f2 anomalous --by Ada`
    """
    feedback(class_name, image, label, by, note)


def _check_class(class_name: str, records: Records) -> None:
    """Raises ValueError for a class that has no model and is not in the rollout: no part of it can wait."""
    class_names = {cls.class_name for cls in records.rollout.state().classes} | records.locations.known_models().keys()
    if class_name not in class_names:
        raise ValueError(
            f"class {class_name!r}: no model of it is known here; known are {', '.join(sorted(class_names)) or 'none'}"
        )


def _print(described: list[dict[str, Any]]) -> None:
    """Print the table. The shown beginning of an id is never wrapped, since `shadowline review label` takes it."""
    from shadowline.records.image_ids import SHOWN_DIGITS

    table = Table("class", "image", "trace", "received", "why", "file")
    for part in described:
        when, why = part["received_at"][:19], ", ".join(part["reasons"])
        cells = (part["trace_id"], when, why, part["image_path"])
        table.add_row(part["class_name"], part["image_id"][:SHOWN_DIGITS], *cells)
    print_tables(table)
