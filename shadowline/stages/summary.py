"""`shadowline stage summary`: all classes together, worst first, judged by the gates.

data/summary.json           the verdict, means, times, counts
data/class_metrics.json     the main figures of each class
data/plots                  training_loss.csv, validation_loss.csv, roc/CLASS.csv, scores/CLASS.csv

DVC keeps all of them, so that `dvc metrics diff` and `dvc plots diff` compare any two commits.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from shadowline.core.atomic_files import replace_file
from shadowline.core.layout import Layout
from shadowline.core.params import GateParams, Params
from shadowline.core.progress import Progress
from shadowline.data.labels import Label
from shadowline.data.manifest import read_manifest
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.cost import Cost
from shadowline.evaluation.curves import histogram_table, roc_table
from shadowline.evaluation.gates import ClassEvidence, GateEvidence, Verdict, evaluate_gates
from shadowline.evaluation.latency import Latency
from shadowline.evaluation.summary import (
    FiguresByClass,
    LatencyMeasurement,
    LatencyMs,
    Means,
    Summary,
    class_figures,
)
from shadowline.models.dinomaly.history import TrainingHistory


def run(params: Params, layout: Layout, progress: Progress) -> Verdict:
    """Write the files of this stage. A missing evaluation is a failed check, not an error: gates fail closed."""
    names = sorted(params.classes)
    paths = {name: layout.metrics(name) for name in names}
    measured = {name: ClassMetrics.read(path) for name, path in paths.items() if path.is_file()}
    cost = Cost.read(layout.cost) if layout.cost.is_file() else None
    num_images = {name: _counts(layout.manifest(name)) for name in names}
    summary = summarize(measured, cost, num_images, params.gates)
    summary.write(layout.summary)
    write_comparison(measured, layout)
    progress.message(f"verdict: {'passed' if summary.verdict.passed else 'not passed'}")
    return summary.verdict


def summarize(
    measured: Mapping[str, ClassMetrics],
    cost: Cost | None,
    num_images: dict[str, dict[str, int]],
    gates: GateParams,
) -> Summary:
    """`num_images` (class → split → images) names the classes that are expected; None for a cost that is missing."""
    latency = cost.latency if cost else None
    return Summary(
        verdict=evaluate_gates(gate_evidence_of(tuple(num_images), measured, cost), gates),
        classes=tuple(sorted(measured, key=lambda name: (measured[name].image.auroc.value, name))),
        means=_means(list(measured.values())),
        memory=cost.memory if cost else None,
        latency_ms=_milliseconds(latency) if latency else LatencyMs(),
        latency_measurement=_measurement(latency) if latency else LatencyMeasurement(),
        num_images=num_images,
    )


def gate_evidence_of(
    expected: tuple[str, ...], measured: Mapping[str, ClassMetrics], cost: Cost | None
) -> GateEvidence:
    classes = tuple(
        ClassEvidence(
            class_name=name,
            auroc=metrics.image.auroc.value,
            legacy_auroc=metrics.components.legacy.value,
            separation=metrics.practicality.separation,
            flip_share=metrics.practicality.flip_share,
            saturation=metrics.practicality.saturation,
            miss_rate=metrics.decisions.fnr,
            false_alarms=metrics.decisions.false_alarms,
            num_normal=metrics.num_test_normal,
            target_fpr=metrics.decisions.target_fpr,
        )
        for name, metrics in measured.items()
    )
    return GateEvidence(
        expected,
        classes,
        memory_mb=cost.memory.total_mb if cost else None,
        latency_ms=cost.latency.idle_p95_ms if cost else None,
        raw_latency_ms=cost.latency.p95_ms if cost else None,
        latency_reliable=cost.latency.reliable if cost else False,
    )


def _milliseconds(latency: Latency) -> LatencyMs:
    return LatencyMs(
        p50=latency.p50_ms,
        p95=latency.p95_ms,
        idle_p95=latency.idle_p95_ms,
        legacy_p50=latency.legacy_p50_ms,
        legacy_p95=latency.legacy_p95_ms,
    )


def _measurement(latency: Latency) -> LatencyMeasurement:
    """How the latency was measured, and whether other work ran in the meantime."""
    return LatencyMeasurement(
        ratio_p95=latency.ratio_p95,
        reference_idle_ms=latency.reference_idle_ms,
        reference_spread=latency.reference_spread,
        running_share=latency.running_share,
        num_timings=latency.num_timings,
        num_attempts=latency.num_attempts,
        reliable=latency.reliable,
    )


def _means(classes: Sequence[ClassMetrics]) -> Means:
    """Mean image AUROC over classes, of the model and of what it is compared with."""
    if not classes:
        return Means()
    return Means(
        auroc=sum(metrics.components.fused.value for metrics in classes) / len(classes),
        bank_auroc=sum(metrics.components.bank.value for metrics in classes) / len(classes),
        reconstruction_auroc=sum(metrics.components.reconstruction.value for metrics in classes) / len(classes),
        legacy_auroc=sum(metrics.components.legacy.value for metrics in classes) / len(classes),
    )


def _counts(path: Path) -> dict[str, int]:
    counts = read_manifest([path])["split"].value_counts()
    return {str(split): int(count) for split, count in sorted(counts.items())}


# --- what DVC compares between commits ------------------------------------------------------------------------------


def write_comparison(measured: Mapping[str, ClassMetrics], layout: Layout) -> None:
    """Write the figures and plots of these classes; those of other classes are removed."""
    figures = {name: class_figures(metrics) for name, metrics in measured.items()}
    FiguresByClass(classes=figures).write(layout.class_metrics)
    shutil.rmtree(layout.plots, ignore_errors=True)
    for name, table in _losses(TrainingHistory.read(layout.history)).items():
        _write_table(table, layout.plots / f"{name}.csv")
    for name, metrics in measured.items():
        scores = pd.read_parquet(layout.evaluation(name) / "scores.parquet")
        values, anomalous = scores["score"].to_numpy(), (scores["label"] == Label.ANOMALOUS).to_numpy()
        _write_table(roc_table(values, anomalous), layout.plots / f"roc/{name}.csv")
        histogram = histogram_table(values, anomalous, metrics.decisions.threshold)
        _write_table(histogram, layout.plots / f"scores/{name}.csv")


def _losses(history: TrainingHistory) -> dict[str, pd.DataFrame]:
    training = [{"step": step.step, "loss": step.loss} for step in history.steps]
    validation = [{"step": evaluation.step, "loss": evaluation.val_loss} for evaluation in history.evaluations]
    return {"training_loss": pd.DataFrame(training), "validation_loss": pd.DataFrame(validation)}


def _write_table(table: pd.DataFrame, path: Path) -> None:
    with replace_file(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
