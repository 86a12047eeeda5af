"""`shadowline bench …`: measure this machine, side by side with a baseline."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shadowline.benchmarks import bench_memory, bench_training
from shadowline.params import load_params
from shadowline.paths import Layout
from shadowline.progress import default_progress

app = typer.Typer(help="Measure speed and memory; run `shadowline demo` first.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command("train")
def train(
    steps: Annotated[int, typer.Option(help="Optimiser steps per token fraction.")] = 160,
    target: Annotated[float, typer.Option(help="Mean image AUROC, of the decoder alone, to reach.")] = 0.8,
    as_json: JsonOption = False,
) -> None:
    """Cached features against the encoder in the loop, and token fractions 1.0, 0.5, 0.25.

    Example: `shadowline bench train --steps 80`
    """
    layout = Layout()
    results = bench_training(load_params(layout.params), layout, default_progress(), steps=steps, target=target)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in results]))
        return
    fastest = min(one.seconds_per_step for one in results)
    table = Table("training", "s/step", "ratio", "steps timed", "AUROC", f"s to AUROC {target:g}")
    for one in results:
        cells = (f"{one.seconds_per_step:.2f}", f"{one.seconds_per_step / fastest:.2f}", str(one.steps))
        table.add_row(one.name, *cells, _number(one.auroc, 3), _number(one.seconds_to_target, 0))
    Console().print(table)


@app.command("memory")
def memory(
    classes: Annotated[int, typer.Option(help="Number of product classes.")] = 15,
    as_json: JsonOption = False,
) -> None:
    """Encoder + decoder + banks for many classes against as many PatchCores.

    Example: `shadowline bench memory --classes 15`
    """
    layout = Layout()
    use = bench_memory(load_params(layout.params), layout, classes)
    if as_json:
        typer.echo(json.dumps({**asdict(use), "total_mb": use.total_mb}))
        return
    table = Table(f"{use.num_classes} classes", "MB")
    rows = {"encoder": use.encoder_mb, "decoder": use.decoder_mb, "banks": use.banks_mb, "total": use.total_mb}
    for name, value in {**rows, f"{use.num_classes} PatchCores": use.patchcores_mb}.items():
        table.add_row(name, f"{value:.1f}")
    table.add_row("ratio", f"{use.patchcores_mb / use.total_mb:.2f}")
    Console().print(table)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
