"""How well scores tell defects from normals, each figure with an interval, and whether the scores are fit for use.

    image_metrics(scores, labels, resamples=500, confidence=0.95, seed=7).auroc   # Interval(value, low, high)
    practicality(scores, labels).separation                                       # robust sigmas

A bootstrap resample is a row of multiplicities, so every metric is a function of weighted counts at falling
thresholds and all resamples are computed at once. The tests compare each with scikit-learn's.

Axes: R resamples, row 0 being the sample itself · N images · K thresholds, falling, from above every score · H W pixels
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from shadowline.core.robust import robust_sigma

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

AUPRO_LIMIT = 0.3  # false-positive rate up to which AUPRO integrates (Bergmann et al., IJCV 2021)
MAX_THRESHOLDS = 4096  # of the pixel metrics; bounds memory at N·K
SATURATION_TOLERANCE = 1e-9  # relative; scores closer than this are the same score


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its bootstrap interval; low ≤ value ≤ high always."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ImageMetrics:
    auroc: Interval
    average_precision: Interval
    f1_max: Interval  # best F1 over all thresholds
    fpr_at_95_tpr: Interval  # smallest FPR with TPR ≥ 95 %
    tpr_at_1_fpr: Interval  # largest TPR with FPR ≤ 1 %


@dataclass(frozen=True)
class PixelMetrics:
    auroc: Interval
    average_precision: Interval
    aupro: Interval  # mean overlap per defect region, FPR 0…0.3, normalised to 0…1


@dataclass(frozen=True)
class Practicality:
    """Whether the scores are fit for use, which a ranking alone does not tell."""

    separation: float  # robust sigmas of the normals between the two medians; infinite where the normals are constant
    overlap: float  # 0 (apart) … 1 (the same distribution)
    saturation: float  # share of scores that are one and the same value


@dataclass(frozen=True)
class Curves:
    """Anomalous (tp) and normal (fp) counts at or above each threshold, (R, K): first column zero, last the total."""

    tp: Floats
    fp: Floats

    @property
    def tpr(self) -> Floats:
        return self.tp / self.tp[:, -1:]

    @property
    def fpr(self) -> Floats:
        return self.fp / self.fp[:, -1:]


Metric = Callable[[Curves], Floats]  # one value per resample, (R,)


def auroc(curves: Curves) -> Floats:
    """Area under the ROC curve by trapezoids: ties count half."""
    return _area(curves.fpr, curves.tpr)


def average_precision(curves: Curves) -> Floats:
    """Σ (recall step × precision), without interpolation, as scikit-learn defines it."""
    flagged = curves.tp + curves.fp
    precision = np.divide(curves.tp, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    return _row_sum(np.diff(curves.tpr, axis=1) * precision[:, 1:])


def f1_max(curves: Curves) -> Floats:
    """The best F1 = 2·TP / (flagged + anomalous) over all thresholds."""
    best: Floats = (2 * curves.tp / (curves.tp + curves.fp + curves.tp[:, -1:])).max(axis=1)
    return best


def fpr_at_95_tpr(curves: Curves) -> Floats:
    """The smallest FPR with TPR ≥ 95 %; compared in whole counts, so that 19 of 20 is 95 %."""
    reached = 100 * curves.tp >= 95 * curves.tp[:, -1:]
    first = reached.argmax(axis=1)
    return np.take_along_axis(curves.fpr, first[:, None], axis=1)[:, 0]


def tpr_at_1_fpr(curves: Curves) -> Floats:
    """The largest TPR with FPR ≤ 1 %; with fewer than 100 normals that means no false alarm at all."""
    allowed = 100 * curves.fp <= curves.fp[:, -1:]
    best: Floats = np.where(allowed, curves.tpr, 0.0).max(axis=1)
    return best


def image_metrics(
    scores: npt.ArrayLike, labels: npt.ArrayLike, *, resamples: int, confidence: float, seed: int
) -> ImageMetrics:
    """All image metrics of N scores (higher is more anomalous) and N bool labels (True is anomalous).

    Every metric sees the same resamples. Raises ValueError as `bootstrap` does.
    """
    curves = _image_curves(scores, labels, resamples, confidence, seed)
    metrics = (auroc, average_precision, f1_max, fpr_at_95_tpr, tpr_at_1_fpr)
    return ImageMetrics(*(_interval(metric(curves), confidence) for metric in metrics))


def bootstrap(
    metric: Metric, scores: npt.ArrayLike, labels: npt.ArrayLike, *, resamples: int, confidence: float, seed: int
) -> Interval:
    """`metric` with its percentile bootstrap interval (Efron 1979), normals and anomalies resampled apart.

    `metric` is one of this file's, e.g. `auroc`. Where the bootstrap is biased (F1-max is), the percentiles can miss
    the value; the interval is then widened to hold it. Raises ValueError for scores that are not finite, labels that
    are not bool, shapes that differ, a missing class of labels, no resamples, or a confidence outside 0…1.
    """
    return _interval(metric(_image_curves(scores, labels, resamples, confidence, seed)), confidence)


def pixel_metrics(
    maps_NHW: npt.ArrayLike,
    masks_NHW: npt.ArrayLike,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    max_thresholds: int = MAX_THRESHOLDS,
) -> PixelMetrics:
    """Pixel metrics of anomaly maps against bool masks (True is defect), bootstrapped over images.

    Images with and without a defect are resampled apart. A defect region is an 8-connected component. Up to
    `max_thresholds` distinct scores the metrics are exact; beyond, thresholds are quantiles, half of the normal and
    half of the defective pixels, which is exact to about 2 / max_thresholds. Memory: two copies of the maps in float64
    and 3·N·K + 3·R·K numbers. Raises ValueError as `bootstrap` does, pixels standing for images.
    """
    maps, masks = _checked(maps_NHW, masks_NHW, dimensions=3)
    defective_N: Bools = np.asarray(masks.any(axis=(1, 2)))
    weights_RN = _multiplicities(defective_N, resamples, confidence, seed)
    defect_NK, normal_NK, overlap_NK, regions_N = _pixel_histograms(
        maps, masks, _thresholds(maps, masks, max_thresholds)
    )
    curves = Curves(weights_RN @ _cumulated(defect_NK), weights_RN @ _cumulated(normal_NK))
    pro_RK = weights_RN @ _cumulated(overlap_NK) / (weights_RN @ regions_N)[:, None]
    aupro_R = np.array([_area_to(AUPRO_LIMIT, fpr, pro) for fpr, pro in zip(curves.fpr, pro_RK, strict=True)])
    return PixelMetrics(*(_interval(v, confidence) for v in (auroc(curves), average_precision(curves), aupro_R)))


def practicality(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Practicality:
    """Separation, overlap and saturation of N scores and N bool labels; raises ValueError as `bootstrap` does."""
    return Practicality(separation(scores, labels), overlap(scores, labels), saturation(scores))


def separation(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """(median of the anomalous − median of the normals) / (1.4826 · MAD of the normals), in robust sigmas.

    Where the MAD is 0 the unit is gone: 0 for equal medians, else ±infinity, which no gate accepts as a measurement.
    """
    values, anomalous = _checked(scores, labels, dimensions=1)
    normals = values[~anomalous]
    distance = float(np.median(values[anomalous]) - np.median(normals))
    sigma = robust_sigma(normals)
    if sigma > 0:
        return distance / sigma
    return 0.0 if distance == 0 else float(np.copysign(np.inf, distance))


def overlap(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """1 − max over t of |F_normal(t) − F_anomalous(t)|, the F being the empirical distributions: 0…1.

    That is 1 − the Kolmogorov-Smirnov distance: the overlap coefficient ∫ min(f, g) where the densities cross once,
    and never less than it. It needs no bins and does not change under a monotone map of the scores.
    """
    values, anomalous = _checked(scores, labels, dimensions=1)
    shares = [
        np.searchsorted(np.sort(part), values, side="right") / part.size
        for part in (values[anomalous], values[~anomalous])
    ]
    return 1.0 - float(np.abs(shares[0] - shares[1]).max())


def saturation(scores: npt.ArrayLike) -> float:
    """Share of the scores that equal the most frequent one (to 1e-9 relative); 0 where no score occurs twice."""
    values = np.sort(_finite(scores, dimensions=1))
    reach = SATURATION_TOLERANCE * np.abs(values)
    twins = np.searchsorted(values, values + reach, side="right") - np.searchsorted(values, values - reach, side="left")
    return float(twins.max() / values.size) if twins.max() > 1 else 0.0


def flip_share(decisions: npt.ArrayLike, decisions_under_view: npt.ArrayLike) -> float:
    """Share of decisions that a view (brightness, noise, …) turns over: (N,) against (N,), or (V, N) for V views.

    Raises ValueError for decisions that are not bool, no decision, or another number of images.
    """
    before, after = np.asarray(decisions), np.asarray(decisions_under_view)
    if before.dtype != np.bool_ or after.dtype != np.bool_:
        raise ValueError(f"decisions: {before.dtype} and {after.dtype}, need bool; pass scores > threshold")
    if before.ndim != 1 or after.ndim not in (1, 2) or before.shape != after.shape[-1:] or not after.size:
        raise ValueError(f"decisions: shapes {before.shape} and {after.shape}, need (N,) and (N,) or (V, N), N ≥ 1")
    return float((before != after).mean())


def _finite(scores: npt.ArrayLike, *, dimensions: int) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != dimensions or not values.size:
        raise ValueError(f"scores: shape {values.shape}, need {dimensions} dimensions and at least one score")
    if not np.isfinite(values).all():
        raise ValueError(f"scores: {int((~np.isfinite(values)).sum())} of {values.size} not finite; check the model")
    return values


def _checked(scores: npt.ArrayLike, labels: npt.ArrayLike, *, dimensions: int) -> tuple[Floats, Bools]:
    values, anomalous = _finite(scores, dimensions=dimensions), np.asarray(labels)
    if anomalous.dtype != np.bool_:
        raise ValueError(f"labels: {anomalous.dtype}, need bool with True for anomalous; compare with the label first")
    if values.shape != anomalous.shape:
        raise ValueError(f"scores: shape {values.shape}, but labels: shape {anomalous.shape}; they must be the same")
    if anomalous.all() or not anomalous.any():
        kind = "anomalous" if anomalous.all() else "normal"
        raise ValueError(f"labels: all {anomalous.size} are {kind}, need both kinds; add test images of the other")
    return values, anomalous


def _multiplicities(anomalous_N: Bools, resamples: int, confidence: float, seed: int) -> Floats:
    """How often each image occurs in each resample (R, N): row 0 all ones, the rest stratified by label."""
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"bootstrap: {resamples} resamples at confidence {confidence:g}, need ≥ 1 and one inside 0…1")
    rng = np.random.default_rng(seed)
    weights = np.ones((resamples + 1, anomalous_N.size))
    for members in (np.flatnonzero(anomalous_N), np.flatnonzero(~anomalous_N)):
        if members.size:
            weights[1:, members] = rng.multinomial(
                members.size, np.full(members.size, 1 / members.size), size=resamples
            )
    return weights


def _image_curves(scores: npt.ArrayLike, labels: npt.ArrayLike, resamples: int, confidence: float, seed: int) -> Curves:
    values, anomalous = _checked(scores, labels, dimensions=1)
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.diff(values[order]) != 0, True)
    weights_RN = _multiplicities(anomalous, resamples, confidence, seed)[:, order]
    defects, normals = weights_RN * anomalous[order], weights_RN * ~anomalous[order]
    return Curves(*(_from_zero(part.cumsum(axis=1)[:, last_of_tie]) for part in (defects, normals)))


def _thresholds(maps: Floats, masks: Bools, limit: int) -> Floats:
    """Rising thresholds, at most `limit`: the distinct scores, or else quantiles of normal and defective pixels."""
    distinct = np.unique(maps)
    if distinct.size <= limit:
        return distinct
    shares = np.linspace(0, 1, limit // 2)
    quantiles = [np.quantile(maps[part], shares, method="lower") for part in (masks, ~masks)]
    return np.unique(np.concatenate(quantiles))


def _pixel_histograms(maps: Floats, masks: Bools, thresholds: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Per image and threshold: defective pixels, normal pixels, summed share of each region; and regions per image."""
    shape = (len(maps), thresholds.size)
    defect_NK, normal_NK, overlap_NK, regions_N = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape[0])
    for n, (score_map, mask) in enumerate(zip(maps, masks, strict=True)):
        bins = np.searchsorted(thresholds, score_map, side="right") - 1
        regions, regions_N[n] = ndimage.label(mask, structure=np.ones((3, 3)))
        region_share = 1.0 / np.bincount(regions.ravel(), minlength=1)[regions[mask]]
        defect_NK[n] = np.bincount(bins[mask], minlength=thresholds.size)
        normal_NK[n] = np.bincount(bins[~mask], minlength=thresholds.size)
        overlap_NK[n] = np.bincount(bins[mask], weights=region_share, minlength=thresholds.size)
    return defect_NK, normal_NK, overlap_NK, regions_N


def _cumulated(rising_NK: Floats) -> Floats:
    """Histogram over rising thresholds → counts at or above falling ones."""
    return _from_zero(rising_NK[:, ::-1].cumsum(axis=1))


def _from_zero(counts: Floats) -> Floats:
    return np.pad(counts, ((0, 0), (1, 0)))


def _row_sum(values: Floats) -> Floats:
    total: Floats = values.sum(axis=1)
    return total


def _area(x_RK: Floats, y_RK: Floats) -> Floats:
    return _row_sum(np.diff(x_RK, axis=1) * (y_RK[:, 1:] + y_RK[:, :-1]) / 2)


def _area_to(limit: float, x_K: Floats, y_K: Floats) -> float:
    """Mean of the piecewise linear curve over x in 0…limit; x rises from 0 to beyond the limit."""
    beyond = int(np.searchsorted(x_K, limit, side="left"))
    step = (limit - x_K[beyond - 1]) / (x_K[beyond] - x_K[beyond - 1])
    x = np.append(x_K[:beyond], limit)
    y = np.append(y_K[:beyond], y_K[beyond - 1] + step * (y_K[beyond] - y_K[beyond - 1]))
    return float(np.trapezoid(y, x) / limit)


def _interval(values_R: Floats, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    value, (low, high) = float(values_R[0]), np.quantile(values_R[1:], [tail, 1 - tail])
    return Interval(value, min(float(low), value), max(float(high), value))
