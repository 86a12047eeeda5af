"""`shadowline check`: everything that can be known before a training, as one list."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from shadowline.cli.output import Table, print_tables, say
from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout

if TYPE_CHECKING:
    from shadowline.data.class_forecast import ClassForecast
    from shadowline.project.checks import Finding, ProjectCheck


def check(
    update: Annotated[
        bool, typer.Option("--update", help="Write dvc.yaml first, as this version of Shadowline has it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Say in seconds what would stop a training, what each class gets of its images, and which numbers would work.

    Exit code 0: a training can begin, 2: something stops it.

    Example: `shadowline check`
    """
    from shadowline.project.checks import check_project
    from shadowline.project.skeleton import pipeline_text

    layout = Layout()
    if update:
        with replace_file(layout.root / "dvc.yaml") as temporary:
            temporary.write_text(pipeline_text(), encoding="utf-8")
    result = check_project(layout)
    if as_json:
        typer.echo(json.dumps(_as_dict(result)))
    else:
        print_check(result)
    raise typer.Exit(2 if result.blocks else 0)


def refuse_first_training(layout: Layout) -> None:
    """Before a project is trained for the first time: print what stops it to stderr, and exit with code 2."""
    from shadowline.project.checks import check_project

    if (layout.root / "dvc.lock").is_file():
        return
    blocking = [finding for finding in check_project(layout).findings if finding.blocks]
    for finding in blocking:
        _print_finding(finding, err=True)
    if blocking:
        raise typer.Exit(2)


def print_check(result: ProjectCheck) -> None:
    if result.forecasts:
        print_tables(_splits(result))
    for finding in result.findings:
        _print_finding(finding)
    num_blocking = sum(finding.blocks for finding in result.findings)
    if num_blocking:
        say(f"{num_blocking} of {len(result.findings)} findings stop a training")
    else:
        say("nothing stops a training: `shadowline retrain`")


def _splits(result: ProjectCheck) -> Table:
    table = Table("class", "normal", "train", "val", "test", "defects", "promised false alarms")
    for name, forecast in result.forecasts.items():
        splits = forecast.splits
        counts = (forecast.counts.normals, splits.train, splits.val, splits.test_normal)
        defects = f"{splits.test_anomalous} injected" if splits.injected else str(forecast.counts.defects)
        table.add_row(name, *(str(count) for count in counts), defects, _promise(forecast))
    return table


def _promise(forecast: ClassForecast) -> str:
    return f"at most {forecast.rates[0].promised:.1%}" if forecast.splits.val else "none"


def _print_finding(finding: Finding, *, err: bool = False) -> None:
    """Two lines that are whole in a pipe: what there is, and what would work."""
    mark, colour = ("stops", "red") if finding.blocks else ("notes", "yellow")
    say(f"{mark} {finding.subject}: {finding.message}", colour=colour, err=err)
    say(f"      → {finding.way_out}", err=err)


def _as_dict(result: ProjectCheck) -> dict[str, object]:
    return {
        "blocks": result.blocks,
        "findings": [asdict(finding) for finding in result.findings],
        "classes": {name: asdict(forecast) for name, forecast in result.forecasts.items()},
    }
