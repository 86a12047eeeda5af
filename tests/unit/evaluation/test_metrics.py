"""Metrics against scikit-learn, against brute force, and against the laws that they must keep."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats
from sklearn import metrics as sk

from shadowline.evaluation import metrics
from shadowline.evaluation.metrics import (
    Interval,
    bootstrap,
    flip_share,
    image_metrics,
    overlap,
    pixel_metrics,
    practicality,
    saturation,
    separation,
)

FAST = {"resamples": 20, "confidence": 0.9, "seed": 3}
METRICS = (
    metrics.auroc,
    metrics.average_precision,
    metrics.f1_max,
    metrics.fpr_at_95_tpr,
    metrics.tpr_at_1_fpr,
)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Integer scores, so that ties are common and monotone maps exact, with both kinds of labels."""
    size = draw(st.integers(2, 40))
    scores = draw(hnp.arrays(np.float64, size, elements=st.integers(-12, 12).map(float)))
    labels = draw(hnp.arrays(np.bool_, size))
    labels[:2] = (True, False)
    return scores, labels


def oracle(metric, scores, labels) -> float:
    """The same metric from scikit-learn's curves."""
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {
        metrics.auroc: lambda: sk.roc_auc_score(labels, scores),
        metrics.average_precision: lambda: sk.average_precision_score(labels, scores),
        metrics.f1_max: f1.max,
        metrics.fpr_at_95_tpr: lambda: fpr[tpr >= 0.95 - 1e-12].min(),
        metrics.tpr_at_1_fpr: lambda: tpr[fpr <= 0.01 + 1e-12].max(),
    }[metric]()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@given(sample=scored())
def test_agrees_with_scikit_learn(metric, sample):
    found = bootstrap(metric, *sample, **FAST)
    assert found.value == pytest.approx(oracle(metric, *sample), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@given(sample=scored())
def test_interval_contains_the_value_and_stays_a_share(metric, sample):
    found = bootstrap(metric, *sample, **FAST)
    assert -1e-12 <= found.low <= found.value <= found.high <= 1 + 1e-12


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@given(sample=scored())
def test_every_metric_is_invariant_under_monotone_maps(metric, sample):
    scores, labels = sample
    assert bootstrap(metric, scores, labels, **FAST) == bootstrap(metric, scores**3 * 5 + 2, labels, **FAST)


@given(sample=scored())
def test_auroc_of_negated_scores_is_the_complement(sample):
    scores, labels = sample
    there, back = (bootstrap(metrics.auroc, sign * scores, labels, **FAST).value for sign in (1, -1))
    assert there + back == pytest.approx(1.0)


def test_nineteen_of_twenty_is_95_per_cent_and_one_of_hundred_is_1_per_cent():
    scores = np.concatenate([np.arange(19) + 200.0, [-1.0], [100.0], np.zeros(99)])
    labels = np.arange(120) < 20
    found = image_metrics(scores, labels, **FAST)
    assert found.fpr_at_95_tpr.value == 0.0
    assert found.tpr_at_1_fpr.value == pytest.approx(0.95)
    one_false_alarm_above = np.where(np.arange(120) == 20, 1000.0, scores)
    assert image_metrics(one_false_alarm_above, labels, **FAST).tpr_at_1_fpr.value == pytest.approx(0.95)


def test_bootstrap_is_what_resampling_one_by_one_gives():
    """An oracle of the whole distribution: resample each label apart, recompute with scikit-learn, take percentiles."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) < 30
    scores = rng.normal(size=80) + labels
    found = bootstrap(metrics.auroc, scores, labels, resamples=4000, confidence=0.9, seed=1)
    values = []
    for _ in range(1500):
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == kind), (labels == kind).sum()) for kind in (0, 1)])
        values.append(sk.roc_auc_score(labels[rows], scores[rows]))
    assert (found.low, found.high) == pytest.approx(np.quantile(values, [0.05, 0.95]), abs=0.01)


def test_interval_narrows_with_more_images_and_widens_with_more_confidence():
    rng = np.random.default_rng(5)

    def width(size: int, confidence: float) -> float:
        labels = np.arange(size) % 2 == 0
        found = bootstrap(
            metrics.auroc, rng.normal(size=size) + labels, labels, resamples=400, confidence=confidence, seed=2
        )
        return found.high - found.low

    assert width(1000, 0.9) < width(40, 0.9) < width(40, 0.999)


def test_an_interval_that_the_bias_of_f1_moved_away_is_widened_to_hold_the_value():
    labels = np.arange(40) < 10
    scores = np.random.default_rng(0).normal(size=40)
    found = bootstrap(metrics.f1_max, scores, labels, resamples=400, confidence=0.01, seed=0)
    assert found.low == found.value < found.high  # resamples repeat images, and the best threshold profits


def test_same_seed_same_interval_other_seed_other_interval():
    labels = np.arange(60) % 3 == 0
    scores = np.random.default_rng(1).normal(size=60) + labels
    first, again, other = (
        bootstrap(metrics.auroc, scores, labels, resamples=50, confidence=0.9, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other and first.value == other.value


def test_image_metrics_are_the_single_bootstraps():
    labels = np.arange(60) % 3 == 0
    scores = np.random.default_rng(1).normal(size=60) + labels
    found = image_metrics(scores, labels, **FAST)
    for metric in METRICS:
        assert getattr(found, metric.__name__) == bootstrap(metric, scores, labels, **FAST)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, np.nan, 3.0], [True, False, True], "1 of 3 not finite"),
        ([1.0, np.inf, 3.0], [True, False, True], "1 of 3 not finite"),
        ([1.0, 2.0], [True, True], "all 2 are anomalous"),
        ([1.0, 2.0], [False, False], "all 2 are normal"),
        ([1.0, 2.0, 3.0], [True, False], "they must be the same"),
        ([1.0, 2.0], ["anomalous", "normal"], "need bool"),
        ([1.0, 2.0], [1, 0], "need bool"),
        ([], [], "at least one score"),
        ([[1.0, 2.0]], [[True, False]], "need 1 dimensions"),
    ],
)
def test_unusable_input_is_refused(scores, labels, message):
    for function in (lambda s, y: image_metrics(s, y, **FAST), practicality):
        with pytest.raises(ValueError, match=message):
            function(scores, labels)


@pytest.mark.parametrize("wrong", [{"resamples": 0}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_a_bootstrap_without_resamples_or_confidence_is_refused(wrong):
    with pytest.raises(ValueError, match="need ≥ 1 and one inside 0…1"):
        image_metrics([1.0, 2.0], [False, True], **{**FAST, **wrong})


# --- pixels ---------------------------------------------------------------------------------------------------------


def blobs(seed: int, num_images: int = 6, side: int = 12, levels: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Maps with ties and masks with several regions; the last two images have no defect."""
    rng = np.random.default_rng(seed)
    masks = ndimage.gaussian_filter(rng.normal(size=(num_images, side, side)), (0, 1, 1)) > 0.3
    masks[-2:] = False
    maps = np.round((rng.normal(size=masks.shape) + 1.2 * masks) * levels / 8)
    return maps, masks


def brute_force_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """One threshold after another, one region after another, found by flood fill; no sorting, no cumulative sums."""
    regions = [region for n, mask in enumerate(masks) for region in flood_regions(n, mask)]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        flagged = maps >= threshold
        fpr = (flagged & ~masks).sum() / (~masks).sum()
        pro = sum(sum(flagged[pixel] for pixel in region) / len(region) for region in regions) / len(regions)
        points.append((fpr, pro))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def flood_regions(n: int, mask: np.ndarray) -> list[list[tuple[int, int, int]]]:
    left, found = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while left:
        stack, region = [left.pop()], []
        while stack:
            y, x = stack.pop()
            region.append((n, y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            stack.extend(around)
        found.append(region)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_aupro_is_what_brute_force_finds(seed):
    maps, masks = blobs(seed)
    assert pixel_metrics(maps, masks, **FAST).aupro.value == pytest.approx(brute_force_aupro(maps, masks), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pixel_auroc_and_average_precision_agree_with_scikit_learn(seed):
    maps, masks = blobs(seed)
    found = pixel_metrics(maps, masks, **FAST)
    assert found.auroc.value == pytest.approx(sk.roc_auc_score(masks.ravel(), maps.ravel()))
    assert found.average_precision.value == pytest.approx(sk.average_precision_score(masks.ravel(), maps.ravel()))


def test_pixels_that_touch_by_a_corner_are_one_region():
    maps = np.zeros((1, 4, 4))
    masks = np.zeros((1, 4, 4), dtype=bool)
    masks[0, 0, 0] = masks[0, 1, 1] = True
    maps[0, 0, 0] = 1.0
    masks[0, 3, 3] = True
    found = pixel_metrics(maps, masks, **FAST).aupro.value
    assert found == pytest.approx(brute_force_aupro(maps, masks))
    assert found == pytest.approx(0.25 + 0.75 * 0.15)  # half of one region of two at once, the rest along the diagonal


def test_few_thresholds_come_close_to_all_of_them():
    rng = np.random.default_rng(8)
    masks = np.zeros((4, 60, 60), dtype=bool)
    masks[:3, 20:26, 20:26] = True
    maps = rng.normal(size=masks.shape) + 1.5 * masks
    exact = pixel_metrics(maps, masks, **FAST, max_thresholds=maps.size)
    coarse = pixel_metrics(maps, masks, **FAST, max_thresholds=200)
    assert coarse != exact
    for name in ("auroc", "average_precision", "aupro"):
        assert getattr(coarse, name).value == pytest.approx(getattr(exact, name).value, abs=2 / 200)


def test_pixel_intervals_come_from_resampling_images():
    """Pixels of one image are not independent: with two equal halves of images the interval spans their difference."""
    masks = np.zeros((8, 6, 6), dtype=bool)
    masks[:, :2, :2] = True
    good, bad = masks[0].astype(float), ~masks[0] * 1.0
    found = pixel_metrics(np.stack([good] * 4 + [bad] * 4), masks, resamples=200, confidence=0.9, seed=0)
    assert found.auroc.low < 0.3 < found.auroc.value < 0.7 < found.auroc.high
    alike = pixel_metrics(np.stack([good] * 8), masks, resamples=200, confidence=0.9, seed=0)
    assert alike.aupro == Interval(1.0, 1.0, 1.0)


def test_regions_are_counted_anew_in_every_resample():
    """One region in the first image and four in the second: a perfect map is perfect in whatever mixture."""
    masks = np.zeros((2, 9, 9), dtype=bool)
    masks[0, 1:3, 1:3] = True
    masks[1, 1:8:4, 1:8:4] = True
    masks[1] |= masks[1][:, ::-1]
    assert pixel_metrics(masks * 1.0, masks, **FAST).aupro == Interval(1.0, 1.0, 1.0)


def test_masks_without_any_defect_are_refused():
    with pytest.raises(ValueError, match="need both kinds"):
        pixel_metrics(np.zeros((2, 4, 4)), np.zeros((2, 4, 4), dtype=bool), **FAST)


# --- practicality ---------------------------------------------------------------------------------------------------


@given(sample=scored(), scale=st.sampled_from([0.25, 2.0, 16.0]), shift=st.integers(-50, 50))
def test_separation_is_invariant_under_affine_maps(sample, scale, shift):
    scores, labels = sample
    assert separation(scale * scores + shift, labels) == pytest.approx(separation(scores, labels))


@given(sample=scored())
def test_overlap_is_symmetric_bounded_and_invariant_under_monotone_maps(sample):
    scores, labels = sample
    found = overlap(scores, labels)
    assert 0 <= found <= 1
    assert found == pytest.approx(overlap(scores, ~labels))
    assert found == pytest.approx(overlap(scores**3, labels))


def test_overlap_is_one_minus_the_kolmogorov_smirnov_distance():
    labels = np.arange(90) < 40
    scores = np.round(np.random.default_rng(2).normal(size=90) * 4) + 3 * labels
    assert overlap(scores, labels) == pytest.approx(1 - stats.ks_2samp(scores[labels], scores[~labels]).statistic)


def test_separation_counts_robust_sigmas():
    normals = np.random.default_rng(0).normal(10, 2, size=4001)
    scores = np.append(normals, np.full(9, np.median(normals) + 6))
    assert separation(scores, np.arange(4010) >= 4001) == pytest.approx(3.0, rel=0.05)


def test_separation_ignores_one_wild_normal():
    labels = np.array([False] * 5 + [True] * 3)
    calm = np.array([1, 2, 3, 4, 5, 9, 10, 11.0])
    wild = np.array([1, 2, 3, 4, 5000, 9, 10, 11.0])
    assert separation(wild, labels) == separation(calm, labels)


def test_separation_without_spread_of_normals_is_zero_or_infinite():
    labels = np.array([False, False, False, True])
    assert separation([1, 1, 1, 1], labels) == 0.0
    assert separation([1, 1, 1, 2], labels) == np.inf
    assert separation([1, 1, 1, 0], labels) == -np.inf


def test_a_perfect_ranking_a_hair_apart_has_no_separation():
    """AUROC 1 with scores 3e-6 apart, against normals that spread a thousand times as far."""
    normals = np.linspace(-3e-3, 0, 50)
    scores = np.append(normals, np.full(20, 3e-6))
    labels = np.arange(70) >= 50
    assert bootstrap(metrics.auroc, scores, labels, **FAST).value == 1.0
    assert practicality(scores, labels).separation < 2


def test_overlap_of_same_and_of_parted_scores():
    labels = np.arange(8) % 2 == 0
    assert overlap(np.repeat([1.0, 2.0, 3.0, 4.0], 2), labels) == pytest.approx(1.0)
    assert overlap(np.where(labels, 9.0, 1.0), labels) == pytest.approx(0.0)
    assert overlap([1, 2, 3, 4, 3, 4, 5, 6], np.arange(8) >= 4) == pytest.approx(0.5)


@given(value=st.floats(-1e6, 1e6), size=st.integers(2, 30))
def test_saturation_of_a_constant_is_one(value, size):
    assert saturation(np.full(size, value)) == 1.0


def test_saturation_counts_the_most_frequent_score_if_it_occurs_twice():
    assert saturation([1.0, 2.0, 3.0]) == 0.0
    assert saturation([9.792]) == 0.0
    assert saturation([1.0, 2.0, 2.0, 3.0]) == 0.5
    assert saturation([9.792, 9.792 * (1 + 1e-10), 1.0, 2.0]) == 0.5
    assert saturation([9.792, 9.792 * (1 + 1e-7), 1.0, 2.0]) == 0.0
    assert saturation([-9.792, -9.792 * (1 + 1e-10), 1.0, 2.0]) == 0.5


def test_flip_share_over_one_view_and_over_many():
    before = np.array([True, False, False, True])
    assert flip_share(before, before) == 0.0
    assert flip_share(before, ~before) == 1.0
    assert flip_share(before, [True, True, False, True]) == 0.25
    assert flip_share(before, [before, ~before]) == 0.5


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([True, False], [True], "shapes"),
        (np.zeros(0, dtype=bool), np.zeros(0, dtype=bool), "shapes"),
        (np.zeros(2, dtype=bool), np.zeros((0, 2), dtype=bool), "shapes"),
        ([0.2, 0.9], [True, False], "need bool"),
    ],
)
def test_decisions_that_do_not_pair_up_are_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        flip_share(before, after)
