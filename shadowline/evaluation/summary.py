"""`summary.json`: all classes together under their verdict. `class_metrics.json`: the main figures of each."""

from __future__ import annotations

from typing_extensions import TypedDict  # pydantic cannot use that of typing before Python 3.12

from shadowline.core.artifacts import Artifact
from shadowline.evaluation.class_metrics import ClassMetrics
from shadowline.evaluation.cost import Memory
from shadowline.evaluation.gates import Verdict


class Means(TypedDict, total=False):
    """Mean image AUROC over the classes; empty where no class was evaluated."""

    auroc: float
    bank_auroc: float
    reconstruction_auroc: float
    legacy_auroc: float


class LatencyMs(TypedDict, total=False):
    """Times of single images; empty where the cost was not measured."""

    p50: float
    p95: float
    idle_p95: float
    legacy_p50: float
    legacy_p95: float


class LatencyMeasurement(TypedDict, total=False):
    """How the latency was measured; the fields of `Latency` that are no times of the model."""

    ratio_p95: float
    reference_idle_ms: float
    reference_spread: float
    running_share: float
    num_timings: int
    num_attempts: int
    reliable: bool


class Summary(Artifact):
    verdict: Verdict
    classes: tuple[str, ...]  # worst first
    means: Means
    memory: Memory | None  # None where the cost was not measured
    latency_ms: LatencyMs
    latency_measurement: LatencyMeasurement
    num_images: dict[str, dict[str, int]]  # class → split → images


class ClassFigures(TypedDict, total=False):
    """What two versions are compared by; `aupro` only where the class has masks."""

    auroc: float
    legacy_auroc: float
    fpr: float  # share of the normal test images that raise an alarm
    fnr: float  # share of the anomalous test images that are missed
    aupro: float


class FiguresByClass(Artifact):
    """`dvc metrics` shows numbers of JSON files alone, and none of the lists of `summary.json`."""

    classes: dict[str, ClassFigures]


def class_figures(metrics: ClassMetrics) -> ClassFigures:
    figures = ClassFigures(
        auroc=metrics.components.fused.value,
        legacy_auroc=metrics.components.legacy.value,
        fpr=metrics.decisions.fpr,
        fnr=metrics.decisions.fnr,
    )
    return figures if metrics.pixel is None else {**figures, "aupro": metrics.pixel.aupro.value}
