"""`metrics.json`: what the stage `evaluate` measured of one class on its test split."""

from __future__ import annotations

from dataclasses import dataclass

from shadowline.core.artifacts import Artifact
from shadowline.evaluation.metrics import ImageMetrics, Interval, PixelMetrics, Practicality


@dataclass(frozen=True)
class Components:
    """Image AUROC of each part alone, and of the model that the candidate would replace."""

    fused: Interval
    bank: Interval
    reconstruction: Interval
    legacy: Interval


@dataclass(frozen=True)
class Decisions:
    """Test images at the class's threshold."""

    threshold: float  # robust sigmas
    target_fpr: float  # the false-alarm rate that was asked for
    promised_fpr: float  # the one that the calibration guarantees: the target, or more where normals are few
    false_alarms: int
    misses: int
    fpr: float
    fnr: float


@dataclass(frozen=True)
class ViewPracticality(Practicality):
    """With the decisions that flip when an image changes a little."""

    flips: dict[str, float]  # view → share of decisions that flip
    flip_share: float | None  # mean of them; None without views


@dataclass(frozen=True)
class BankSize:
    storage: str  # float32, float16, low_rank
    num_bytes: int
    exact_num_bytes: int  # uncompressed


class ClassMetrics(Artifact):
    class_name: str
    num_test_normal: int
    num_test_anomalous: int
    image: ImageMetrics
    pixel: PixelMetrics | None  # None without masks that can be seen at the map's resolution
    components: Components
    decisions: Decisions
    practicality: ViewPracticality
    bank: BankSize
