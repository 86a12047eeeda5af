"""`shadowline check`: everything that can be known before a training, as one list."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout

if TYPE_CHECKING:
    from shadowline.project.checks import Finding, ProjectCheck
    from shadowline.project.class_plan import Rate


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
        Console(stderr=True).print(_lines(finding), soft_wrap=True)
    if blocking:
        raise typer.Exit(2)


def print_check(result: ProjectCheck) -> None:
    console = Console()
    if result.plans:
        console.print(_plans(result))
    for finding in result.findings:
        console.print(_lines(finding), soft_wrap=True)
    num_blocking = sum(finding.blocks for finding in result.findings)
    if num_blocking:
        console.print(f"{num_blocking} of {len(result.findings)} findings stop a training")
    else:
        console.print("nothing stops a training: `shadowline retrain`")


def _plans(result: ProjectCheck) -> Table:
    numbers = (Column(name, justify="right") for name in ("normal", "train", "val", "test", "defects", "false alarms"))
    table = Table(Column("class", overflow="fold"), *numbers)
    for name, plan in result.plans.items():
        counts = (plan.num_normal, plan.num_train, plan.num_val, plan.num_test_normal)
        defects = f"{plan.num_test_defects} injected" if plan.is_injected else str(plan.num_defects)
        table.add_row(Text(name), *(str(count) for count in counts), defects, _rate(plan.false_alarms))
    return table


def _rate(rate: Rate) -> str:
    return f"≤ {rate.possible:.1%}"


def _lines(finding: Finding) -> Text:
    """Two lines that are whole in a pipe: what there is, and what would work."""
    mark = ("stops ", "red") if finding.blocks else ("notes ", "yellow")
    return Text.assemble(mark, (finding.subject, "bold"), f": {finding.message}\n      → {finding.way_out}")


def _as_dict(result: ProjectCheck) -> dict[str, object]:
    return {
        "blocks": result.blocks,
        "findings": [asdict(finding) for finding in result.findings],
        "classes": {name: asdict(plan) for name, plan in result.plans.items()},
    }
