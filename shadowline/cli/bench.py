"""`shadowline bench …`: measure this machine, side by side with a baseline."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated

import typer

from shadowline.cli.output import Table, print_tables, say
from shadowline.core.layout import Layout
from shadowline.core.params import load_params
from shadowline.core.progress import default_progress
from shadowline.data.labels import Label

if TYPE_CHECKING:
    from shadowline.benchmarks.audit_log import AuditSpeed
    from shadowline.benchmarks.bank_compression import CompressedQuality
    from shadowline.benchmarks.class_identification import IdentificationBench
    from shadowline.benchmarks.few_shot import FewShotBench, FewShotQuality
    from shadowline.benchmarks.gateway import GatewaySpeed
    from shadowline.benchmarks.records import PairSpeed

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
    from shadowline.benchmarks.cost import bench_training

    layout = Layout()
    results = bench_training(load_params(layout.params), layout, default_progress(), steps=steps, target=target)
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results]))
        return
    fastest = min(result.seconds_per_step for result in results)
    table = Table("training", "s/step", "ratio", "steps timed", "AUROC", f"s to AUROC {target:g}")
    for result in results:
        cells = (f"{result.seconds_per_step:.2f}", f"{result.seconds_per_step / fastest:.2f}", str(result.steps))
        table.add_row(result.name, *cells, _number(result.auroc, 3), _number(result.seconds_to_target, 0))
    print_tables(table)


@app.command("memory")
def memory(
    classes: Annotated[int, typer.Option(help="Number of product classes.")] = 15,
    as_json: JsonOption = False,
) -> None:
    """Encoder + decoder + banks for many classes against as many PatchCores.

    Example: `shadowline bench memory --classes 15`
    """
    from shadowline.benchmarks.cost import bench_memory

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
    print_tables(table)


@app.command("pairs")
def pairs(
    num_pairs: Annotated[int, typer.Option("--pairs", min=1, help="Made-up pairs, over 15 classes.")] = 1_000_000,
    database_url: Annotated[str, typer.Option(help="An empty database; a temporary SQLite file by default.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Write pairs of shadow mode, then count them, weigh them as a tick does, and correlate the scores.

    Example: `shadowline bench pairs --pairs 100000 --database-url postgresql+psycopg://me@localhost/scratch`
    """
    from shadowline.benchmarks.records import bench_pairs
    from shadowline.records.database import open_database

    with tempfile.TemporaryDirectory() as scratch:
        url = database_url or f"sqlite:///{Path(scratch) / 'pairs.db'}"
        engine = open_database(url)
        speed = bench_pairs(engine, num_pairs, load_params(Layout().params), default_progress())
        engine.dispose()
    if as_json:
        typer.echo(json.dumps(asdict(speed)))
        return
    print_tables(_pairs_table(speed))


def _pairs_table(speed: PairSpeed) -> Table:
    table = Table(f"{speed.num_pairs:,} pairs of {speed.num_classes} classes, {speed.database}", "seconds", "pairs/s")
    rows = {
        "insert": speed.insert_s,
        "count and agree": speed.agree_s,
        "guards and verdict of a tick": speed.tick_s,
        "score correlation": speed.correlation_s,
    }
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.2f}", f"{speed.num_pairs / seconds:,.0f}")
    return table


@app.command("audit")
def audit(
    num_writers: Annotated[int, typer.Option("--writers", min=1, help="Processes that append at once.")] = 8,
    num_entries: Annotated[
        int, typer.Option("--entries", min=2_000, help="Of the chain that is verified.")
    ] = 1_000_000,
    database_url: Annotated[str, typer.Option(help="An empty database; a temporary SQLite file by default.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Append to the audit chain, one by one and in batches, beside the same rows without a chain; then verify it.

    Example: `shadowline bench audit --writers 4 --entries 20000`
    """
    from shadowline.benchmarks.audit_log import bench_audit

    with tempfile.TemporaryDirectory() as scratch:
        url = database_url or f"sqlite:///{Path(scratch) / 'audit.db'}"
        speed = bench_audit(url, Path(scratch) / "keys", num_writers, num_entries, default_progress())
    if as_json:
        typer.echo(json.dumps(asdict(speed)))
        return
    print_tables(_audit_table(speed))


def _audit_table(speed: AuditSpeed) -> Table:
    table = Table(f"{speed.num_entries:,} entries, {speed.database}", "chain, 1/s", "plain, 1/s", "ratio")
    rows = {
        f"{speed.num_writers} writers, one at a time": (speed.appends_per_s, speed.plain_appends_per_s),
        "one writer, batches of 1000": (speed.batched_per_s, speed.plain_batched_per_s),
    }
    for name, (chain, plain) in rows.items():
        table.add_row(name, f"{chain:,.0f}", f"{plain:,.0f}", f"{plain / chain:.1f}")
    table.add_row(f"verified in {speed.verify_s:.1f} s", f"{speed.num_entries / speed.verify_s:,.0f}")
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
    from shadowline.benchmarks.gateway import bench_gateway

    layout = Layout()
    name = class_name or next(iter(load_params(layout.params).classes))
    progress = default_progress()
    speed = bench_gateway(layout, name, progress, database_url=database_url, num_requests=num_requests)
    if as_json:
        typer.echo(json.dumps(asdict(speed)))
        return
    for table in _gateway_tables(speed):
        print_tables(table)


def _gateway_tables(speed: GatewaySpeed) -> list[Table]:
    added = Table("caller pauses, ms", "p50 off", "p50 on", "added", "p95 off", "p95 on", "added", "dropped")
    for latency in speed.added:
        off, on = latency.off, latency.on
        values = (off.p50_ms, on.p50_ms, on.p50_ms - off.p50_ms, off.p95_ms, on.p95_ms, on.p95_ms - off.p95_ms)
        added.add_row(f"{latency.pause_ms:g}", *(f"{value:.1f}" for value in values), str(latency.num_dropped))
    throughput = Table("clients", "images/s")
    for number, rate in speed.images_per_s.items():
        throughput.add_row(str(number), f"{rate:.1f}")
    rollback = Table("rollback, ms to the slowest of 2 workers", "in force", "first legacy answer")
    for turn, rolled in enumerate(speed.rollbacks, start=1):
        rollback.add_row(str(turn), f"{rolled.in_force_ms:.0f}", f"{rolled.answered_ms:.0f}")
    return [added, throughput, rollback]


@app.command("few-shot")
def few_shot(
    shots: Annotated[str, typer.Option(help="Numbers of reference images, with commas.")] = "1,2,4,8,16",
    num_seeds: Annotated[int, typer.Option("--seeds", min=2, help="Draws of the references.")] = 5,
    views: Annotated[
        str | None, typer.Option(help="Views of each reference, with commas; few_shot.views by default, '' for none.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Image AUROC of a handful of reference normals beside the class's bank and the full model, on test.

    Example: `shadowline bench few-shot --shots 1,4 --seeds 3 --views hflip,vflip`
    """
    from shadowline.benchmarks.few_shot import bench_few_shot

    layout = Layout()
    params = load_params(layout.params)
    names = params.few_shot.views if views is None else [name for name in views.split(",") if name]
    counts = _whole_numbers(shots, "--shots")
    bench = bench_few_shot(params, layout, default_progress(), shots=counts, num_seeds=num_seeds, views=names)
    if as_json:
        typer.echo(json.dumps(asdict(bench)))
        return
    for table in _few_shot_tables(bench):
        print_tables(table)


def _few_shot_tables(bench: FewShotBench) -> list[Table]:
    tables = []
    for baseline in bench.baselines:
        title = f"{baseline.class_name}, views: {', '.join(bench.views) or 'none'}"
        table = Table("references", "image AUROC", "false alarms", "promised", "misses", title=title)
        for quality in bench.quality:
            if quality.class_name == baseline.class_name:
                table.add_row(str(quality.shots), *_few_shot_cells(quality))
        table.add_row(f"bank, {baseline.num_train} images", f"{baseline.bank_auroc:.3f}")
        table.add_row("full model", f"{baseline.full_auroc:.3f}")
        tables.append(table)
    return tables


def _few_shot_cells(quality: FewShotQuality) -> tuple[str, str, str, str]:
    spread = f"{mean(quality.aurocs):.3f} ± {stdev(quality.aurocs):.3f}"
    false_alarms, misses = (mean(rates) if rates else None for rates in (quality.false_alarms, quality.misses))
    return spread, _number(false_alarms, 2), _number(quality.promised_fpr, 3), _number(misses, 2)


@app.command("compression")
def compression(
    ranks: Annotated[str, typer.Option(help="Ranks of low_rank, with commas.")] = "16,32,64,128",
    as_json: JsonOption = False,
) -> None:
    """Bytes of a bank against image AUROC, in every format, with the calibration kept and fitted anew.

    Example: `shadowline bench compression --ranks 32,64`
    """
    from shadowline.benchmarks.bank_compression import bench_compression

    layout = Layout()
    counts = _whole_numbers(ranks, "--ranks")
    results = bench_compression(load_params(layout.params), layout, default_progress(), ranks=counts)
    if as_json:
        typer.echo(json.dumps([asdict(result) for result in results]))
        return
    print_tables(_compression_table(results))


def _compression_table(results: list[CompressedQuality]) -> Table:
    kept = ("bank AUROC", "AUROC kept", "false alarms", "misses")
    table = Table("class", "bank", "kB", "error", *kept, "AUROC refitted", "false alarms", "misses")
    for result in results:
        name = result.storage if result.rank is None else f"{result.storage} {result.rank}"
        cells = [result.class_name, name, f"{result.num_bytes / 1e3:.0f}", f"{result.distance_error:.4f}"]
        values = (result.bank_auroc, result.kept.auroc, result.kept.false_alarms, result.kept.misses)
        refitted = (result.refitted.auroc, result.refitted.false_alarms, result.refitted.misses)
        table.add_row(*cells, *(f"{value:.3f}" for value in (*values, *refitted)))
    return table


def _whole_numbers(text: str, option: str) -> list[int]:
    """`1,2,4` as numbers of at least 1."""
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise ValueError(f"{option}: {text!r}, need whole numbers of at least 1 with commas, such as 1,2,4")
    return [int(part) for part in text.split(",")]


@app.command("identify")
def identify(as_json: JsonOption = False) -> None:
    """Which class images are taken for, how strange products are rejected, and the time at up to 1000 classes.

    Example: `shadowline bench identify`
    """
    from shadowline.benchmarks.class_identification import bench_identify

    layout = Layout()
    bench = bench_identify(load_params(layout.params), layout)
    if as_json:
        typer.echo(json.dumps(asdict(bench)))
        return
    for table in _identification_tables(bench):
        print_tables(table)


def _identification_tables(bench: IdentificationBench) -> list[Table]:
    table = Table("test images", *bench.found[0].counts, "accuracy", "nearest is another", title="taken for")
    for row in bench.found:
        counts = (str(count) for count in row.counts.values())
        table.add_row(f"{row.class_name}, {row.label}", *counts, f"{row.accuracy:.3f}", str(row.wrong_nearest))
    for label in (Label.NORMAL, Label.ANOMALOUS):
        table.add_row(f"all, {label}", *("" for _ in bench.found[0].counts), f"{bench.accuracy(label):.3f}")
    left_out = Table("left out", "AUROC, normal", "AUROC, all", "rejected", "known normal", "known anomalous")
    left_out.title = f"rejected as unknown; promised for known normal images: {bench.unknown_share:g}"
    for product in bench.left_out:
        shares = (product.rejected, product.normal_rejected, product.anomalous_rejected)
        left_out.add_row(
            product.class_name,
            f"{product.auroc:.3f}",
            f"{product.auroc_all:.3f}",
            *(f"{share:.3f}" for share in shares),
        )
    speed = Table("classes", "ms/image", "MB", title=f"{bench.bytes_per_class:,.0f} bytes per class on disk")
    for measured in bench.speed:
        cells = (f"{measured.ms_per_image:.3f}", f"{measured.megabytes:.2f}")
        speed.add_row(str(measured.num_classes), *cells)
    return [table, left_out, speed]


@app.command("rollout")
def rollout(
    seeds: Annotated[int, typer.Option(help="Rollouts per cell of the power table.")] = 9,
    rollouts: Annotated[int, typer.Option(help="Equal candidates whose wrong stops are counted; 0: none.")] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """What the rules of evidence do with candidates whose errors are known: power, and errors per rollout.

    Example: `shadowline bench rollout --seeds 3 --rollouts 500`
    """
    from shadowline.benchmarks.rollout import error_rates, power

    params = load_params(Layout().params)
    cells = power(params, default_progress(), seeds) if seeds else []
    rates = error_rates(params, default_progress(), rollouts) if rollouts else []
    if as_json:
        typer.echo(json.dumps({"power": [asdict(cell) for cell in cells], "errors": [asdict(rate) for rate in rates]}))
        return
    table = Table(
        "beside", "parts/day", "defects", "lost", "reviewed", "stopped", "passed", "median days until stopped"
    )
    for cell in cells:
        shares = (f"{cell.defect_rate:.1%}", f"{cell.lost_share:.0%}", f"{cell.review_share:.0%}")
        fate = (f"{cell.num_stopped}/{cell.num_rollouts}", str(cell.num_passed))
        days = "inconclusive" if cell.median_days is None else f"{cell.median_days:.1f}"
        table.add_row("legacy" if cell.beside_legacy else "nobody", str(cell.parts_per_day), *shares, *fate, days)
    print_tables(table)
    for rate in rates:
        share, interval = rate.num_wrong / rate.num_rollouts, f"[{rate.low:.2%}, {rate.high:.2%}]"
        text = f"{share:.2%} {interval} of {rate.num_rollouts}, promised {rate.promised:.1%}"
        say(f"{rate.name}: {text}")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
