"""The charts of the report, each from the records it shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from sklearn.metrics import roc_curve

from shadowline.data.labels import Label
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.curves import score_range
from shadowline.evaluation.summary import Summary
from shadowline.models.dinomaly.history import TrainingHistory
from shadowline.report.evaluation_data import ClassContents
from shadowline.report.formatting import duration, number, percent, unit
from shadowline.report.svg import Axis, Bar, Plot, Point, bar_chart, whisker
from shadowline.report.timings import Timings

NUM_BINS = 28
SERIES = 6  # distinguishable colours; further classes repeat them with another dash
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LegendEntry:
    css: str  # colour class
    label: str


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    keys: tuple[LegendEntry, ...] = ()
    note: str = ""


def score_histogram(contents: ClassContents) -> Figure | None:
    """Shares of normal, anomalous and validation images per score; None without any finite score."""
    normal, anomalous = contents.scores_of(Label.NORMAL), contents.scores_of(Label.ANOMALOUS)
    validation = np.asarray(contents.calibration.calibration_scores if contents.calibration else (), dtype=np.float64)
    groups = ((normal, "c-normal", "good"), (anomalous, "c-anomalous", "defective"))
    everything = np.concatenate([normal, anomalous, validation])
    if not everything.size:
        return None
    threshold = contents.metrics.decisions.threshold
    low, high, cut = score_range(everything, threshold)
    edges = np.linspace(low, high, NUM_BINS + 1)
    shares = {css: _shares(scores, edges) for scores, css, _ in groups}
    shares["c-validation"] = _shares(validation, edges)
    top = max(float(values.max()) for values in shares.values())
    plot = Plot(
        f"Histogram of the scores of {contents.name}",
        x=Axis(low, high, "anomaly score"),
        y=Axis(0, top * 1.12, "share of its group", lambda value: percent(value, 0)),
    )
    for scores, css, _ in groups:
        if scores.size:
            plot.area(_steps(shares[css], edges), css)
            plot.line(_steps(shares[css], edges), css)
    if validation.size:
        plot.line(_steps(shares["c-validation"], edges), "c-validation dash1")
    plot.vertical(threshold, "c-threshold", f"threshold {number(threshold, 2)}")
    keys = [LegendEntry(css, f"{name} ({scores.size})") for scores, css, name in groups]
    keys += [LegendEntry("c-validation", f"validation, good ({validation.size})")] if validation.size else []
    note = f"Scores above {number(high, 1)} are counted in the last bin." if cut else ""
    return Figure("Scores", plot.render(), tuple(keys), note)


def _shares(scores: Scores, edges: Scores) -> Scores:
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), bins=edges)
    return np.asarray(counts / max(scores.size, 1), dtype=np.float64)


def _steps(shares: Scores, edges: Scores) -> list[Point]:
    corners = [(float(edge), float(share)) for i, share in enumerate(shares) for edge in (edges[i], edges[i + 1])]
    return [(float(edges[0]), 0.0), *corners, (float(edges[-1]), 0.0)]


def roc(contents: ClassContents) -> Figure | None:
    """The candidate's curve with its operating point, over the parts and the baseline; None for one-sided tests."""
    curves = {
        "c-legacy dash1": ("single-class baseline", "legacy_score"),
        "c-bank dash2": ("bank alone", "bank_score"),
        "c-reconstruction dash2": ("decoder alone", "reconstruction_score"),
        "c-fused": ("new model", "score"),
    }
    if not contents.scores_of(Label.NORMAL).size or not contents.scores_of(Label.ANOMALOUS).size:
        return None
    plot = Plot(
        f"ROC curve of {contents.name}",
        x=Axis(0, 1, "good parts stopped", lambda value: percent(value, 0)),
        y=Axis(0, 1, "defective parts found", lambda value: percent(value, 0)),
    )
    plot.line([(0, 0), (1, 1)], "c-chance")
    keys = []
    for css, (name, column) in curves.items():
        if points := _roc_points(contents, column):
            plot.line(points, css)
            keys.append(LegendEntry(css, name))
    decisions = contents.metrics.decisions
    hint = f"{percent(decisions.fpr)} of the good stopped, {percent(1 - decisions.fnr)} of the defective found"
    plot.dot((decisions.fpr, 1 - decisions.fnr), "c-threshold", hint)
    keys.append(LegendEntry("c-threshold point", "at the threshold"))
    return Figure("Good parts stopped against defective parts found (ROC)", plot.render(), tuple(reversed(keys)))


def _roc_points(contents: ClassContents, column: str) -> list[Point]:
    normal, anomalous = contents.scores_of(Label.NORMAL, column), contents.scores_of(Label.ANOMALOUS, column)
    if not normal.size or not anomalous.size:
        return []
    truth = np.concatenate([np.zeros(normal.size), np.ones(anomalous.size)])
    fpr, tpr, _ = roc_curve(truth, np.concatenate([normal, anomalous]))
    return list(zip(fpr.tolist(), tpr.tolist(), strict=True))


def robustness(metrics: ClassMetrics, max_flip_share: float) -> Figure | None:
    """Share of decisions that flip under each view of the same image, against the gate."""
    flips = metrics.practicality.flips
    if not flips:
        return None
    bars = [
        Bar(_view_name(view), ((share, "c-fused", f"{view}: {percent(share)} of decisions flip"),), percent(share))
        for view, share in flips.items()
    ]
    bound = (max_flip_share, f"gate {percent(max_flip_share)}")
    title = "Decisions that flip when the image changes a little"
    return Figure(title, bar_chart(f"{title}: {metrics.class_name}", bars, bound=bound))


def _view_name(view: str) -> str:
    return view.replace("brightness-", "darker by ").replace("brightness+", "brighter by ").replace("jpeg", "JPEG")


def auroc_axis(classes: Iterable[ClassMetrics]) -> Axis:
    """One axis for the whole column: from the lowest end of a whisker, rounded down to 0.05, to 1."""
    values = [1.0]
    for metrics in classes:
        values += [metrics.image.auroc.low, metrics.components.legacy.value]
    return Axis(min(0.95, float(np.floor(min(values) * 20) / 20)), 1.0)


def auroc_whisker(metrics: ClassMetrics, axis: Axis) -> Markup:
    interval, legacy = metrics.image.auroc, metrics.components.legacy
    label = f"AUROC {number(interval.value)}, interval {number(interval.low)} to {number(interval.high)}"
    return whisker(label, axis, interval.value, interval.low, interval.high, legacy.value)


def training(history: TrainingHistory) -> tuple[Figure, ...]:
    """Loss, validation loss per class, learning rate; a curve without points is left out."""
    last = max([point.step for point in history.steps] + [point.step for point in history.evaluations] + [1])
    losses = [(float(point.step), point.loss) for point in history.steps]
    rates = [(float(point.step), point.lr) for point in history.steps]
    figures = [
        _curves("Training loss", last, {"c-fused": losses}, history.best_step),
        _validation_curves(history, last),
        _curves("Learning rate", last, {"c-reconstruction": rates}, None),
    ]
    return tuple(figure for figure in figures if figure is not None)


def _validation_curves(history: TrainingHistory, last: int) -> Figure | None:
    evaluations = history.evaluations
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.per_class))
    curves, keys = {}, []
    for index, name in enumerate(names):
        css = f"c-series{index % SERIES} dash{index // SERIES % 3}"
        curves[css] = [(float(point.step), point.per_class[name]) for point in evaluations if name in point.per_class]
        keys.append(LegendEntry(css, name))
    return _curves("Validation loss per class", last, curves, history.best_step, tuple(keys))


def _curves(
    title: str, last: int, curves: dict[str, list[Point]], best: int | None, keys: tuple[LegendEntry, ...] = ()
) -> Figure | None:
    values = [value for points in curves.values() for _, value in points]
    if not values:
        return None
    plot = Plot(title, x=Axis(0, last, "optimiser step"), y=Axis(0, max(values) * 1.1 or 1.0))
    if best is not None:
        plot.vertical(best, "c-chance", f"best: step {best}")
    for css, points in curves.items():
        plot.line(points, css)
    return Figure(title, plot.render(), keys)


def memory(summary: Summary, max_memory_mb: float) -> Figure | None:
    """Encoder, decoder and banks stacked, above the sum of the single-class baselines."""
    sizes = summary.memory
    if sizes is None:
        return None
    parts = (
        (sizes.encoder_mb, "c-fused", "encoder"),
        (sizes.decoder_mb, "c-reconstruction", "decoder"),
        (sizes.banks_mb, "c-bank", "banks"),
    )
    stacked = tuple((size, css, f"{name}: {unit(size, 'MB')}") for size, css, name in parts)
    legacy = unit(sizes.legacy_total_mb, "MB")
    bars = [
        Bar("new model", stacked, unit(sizes.total_mb, "MB")),
        Bar("baselines", ((sizes.legacy_total_mb, "c-chance", f"together: {legacy}"),), legacy),
    ]
    keys = tuple(LegendEntry(css, f"{name} {unit(size, 'MB')}") for size, css, name in parts)
    bound = (max_memory_mb, f"gate {unit(max_memory_mb, 'MB')}")
    return Figure("Memory", bar_chart("Memory in MB", bars, bound=bound), keys)


def latency(summary: Summary, max_latency_ms: float) -> Figure | None:
    """Half of the images are answered within the first part of a bar, 95 % within the whole of it."""
    times = summary.latency_ms
    rows = (
        ("new model", times.get("p50"), times.get("p95"), "c-fused"),
        ("baselines", times.get("legacy_p50"), times.get("legacy_p95"), "c-legacy"),
    )
    bars = []
    for name, p50, p95, css in rows:
        if p50 is not None and p95 is not None:
            half = (p50, css, f"half of the images: up to {unit(p50, 'ms')}")
            rest = (max(p95 - p50, 0.0), f"{css} faint", f"95 % of the images: up to {unit(p95, 'ms')}")
            bars.append(Bar(name, (half, rest), unit(p95, "ms")))
    if not bars:
        return None
    bound = (max_latency_ms, f"gate {unit(max_latency_ms, 'ms')}")
    note = "Solid: the faster half of the images. Pale, and the number: 95 of 100 images."
    return Figure("Time per image", bar_chart("Latency in ms", bars, bound=bound), note=note)


def stage_times(timings: Timings) -> Figure | None:
    ran = [stage for stage in timings.stages if not stage.skipped]
    if not ran:
        return None
    bars = [Bar(stage.name, ((stage.seconds, "c-fused", stage.name),), duration(stage.seconds)) for stage in ran]
    skipped: Sequence[str] = [stage.name for stage in timings.stages if stage.skipped]
    note = f"Not run again, because nothing that they read had changed: {', '.join(skipped)}." if skipped else ""
    return Figure("Time per stage", bar_chart("Seconds per stage", bars), note=note)
