"""`shadowline bench …`: measure this machine, side by side with a baseline."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from shadowline.params import load_params
from shadowline.paths import Layout
from shadowline.progress import default_progress

if TYPE_CHECKING:
    from shadowline.benchmarks_records import PairSpeed
    from shadowline.gateway.benchmark import GatewaySpeed

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
    from shadowline.benchmarks import bench_training

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
    from shadowline.benchmarks import bench_memory

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


@app.command("pairs")
def pairs(
    num_pairs: Annotated[int, typer.Option("--pairs", min=1, help="Made-up pairs, over 15 classes.")] = 1_000_000,
    database_url: Annotated[str, typer.Option(help="An empty database; a temporary SQLite file by default.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Write pairs of shadow mode, then count them, look at the last week, and correlate the scores.

    Example: `shadowline bench pairs --pairs 100000 --database-url postgresql+psycopg://me@localhost/scratch`
    """
    from shadowline.benchmarks_records import bench_pairs
    from shadowline.records.database import open_database

    with tempfile.TemporaryDirectory() as scratch:
        url = database_url or f"sqlite:///{Path(scratch) / 'pairs.db'}"
        engine = open_database(url)
        speed = bench_pairs(engine, num_pairs, load_params(Layout().params).shadow.confidence, default_progress())
        engine.dispose()
    if as_json:
        typer.echo(json.dumps(asdict(speed)))
        return
    Console().print(_pairs_table(speed))


def _pairs_table(speed: PairSpeed) -> Table:
    table = Table(f"{speed.num_pairs:,} pairs of {speed.num_classes} classes, {speed.database}", "seconds", "pairs/s")
    rows = {
        "insert": speed.insert_s,
        "count and agree": speed.agree_s,
        "window of a week": speed.window_s,
        "score correlation": speed.correlation_s,
    }
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.2f}", f"{speed.num_pairs / seconds:,.0f}")
    return table


@app.command("gateway")
def gateway(
    class_name: Annotated[
        str, typer.Option("--class", help="Product class; the first of params.yaml by default.")
    ] = "",
    num_requests: Annotated[int, typer.Option("--requests", min=10, help="Per measurement.")] = 200,
    database_url: Annotated[str, typer.Option(help="An empty database; a temporary SQLite file by default.")] = "",
    as_json: JsonOption = False,
) -> None:
    """The shadow's price for callers, throughput, and how soon a rollback is everywhere; starts servers of its own.

    Example: `shadowline bench gateway --class solar_mono --requests 100`
    """
    from shadowline.gateway.benchmark import bench_gateway

    layout = Layout()
    name = class_name or next(iter(load_params(layout.params).classes))
    progress = default_progress()
    speed = bench_gateway(layout, name, progress, database_url=database_url, num_requests=num_requests)
    if as_json:
        typer.echo(json.dumps(asdict(speed)))
        return
    for table in _gateway_tables(speed):
        Console().print(table)


def _gateway_tables(speed: GatewaySpeed) -> list[Table]:
    added = Table("caller pauses, ms", "p50 off", "p50 on", "added", "p95 off", "p95 on", "added", "dropped")
    for one in speed.added:
        off, on = one.off, one.on
        values = (off.p50_ms, on.p50_ms, on.p50_ms - off.p50_ms, off.p95_ms, on.p95_ms, on.p95_ms - off.p95_ms)
        added.add_row(f"{one.pause_ms:g}", *(f"{value:.1f}" for value in values), str(one.num_dropped))
    throughput = Table("clients", "images/s")
    for number, rate in speed.images_per_s.items():
        throughput.add_row(str(number), f"{rate:.1f}")
    rollback = Table("rollback, ms to the slowest of 2 workers", "in force", "first legacy answer")
    for turn, rolled in enumerate(speed.rollbacks, start=1):
        rollback.add_row(str(turn), f"{rolled.in_force_ms:.0f}", f"{rolled.answered_ms:.0f}")
    return [added, throughput, rollback]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
