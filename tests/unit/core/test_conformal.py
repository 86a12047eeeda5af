"""The conformal threshold: its rank against brute force, its promise against simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowline.core.conformal import conformal_threshold, promised_rate, required_normals

RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 1 / 3, 0.5)


def smallest_valid_rank(count: int, rate: Fraction) -> int:
    """By counting: the fewest scores at or below the threshold that leave a fresh one above it at most at `rate`.

    A fresh score is equally likely to have any of the count + 1 ranks, so it exceeds the k-th of the old ones with
    probability (count + 1 − k) / (count + 1).
    """
    return next(k for k in range(1, count + 1) if Fraction(count + 1 - k, count + 1) <= rate)


@pytest.mark.parametrize("rate", [Fraction(1, 100), Fraction(1, 20), Fraction(1, 10), Fraction(1, 3), Fraction(1, 2)])
def test_the_rank_is_the_smallest_that_keeps_the_promise(rate):
    """In exact fractions, for every count up to 300: floating point must not move the rank by one."""
    for count in range(required_normals(float(rate)), 300):
        threshold = conformal_threshold(np.arange(1, count + 1), float(rate))
        assert threshold == smallest_valid_rank(count, rate), count


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.02, 49), (0.05, 19), (0.1, 9), (1 / 3, 2), (0.5, 1)])
def test_the_needed_number_of_normals_is_exact(rate, needed):
    """With one fewer, even the largest score cannot promise the rate."""
    assert required_normals(rate) == needed
    assert conformal_threshold(np.arange(needed), rate) == needed - 1
    with pytest.raises(ValueError, match=f"{needed - 1} calibration normals, need {needed}"):
        conformal_threshold(np.arange(needed - 1), rate)


@given(
    scores=st.lists(st.floats(-1e6, 1e6), min_size=99, max_size=150),
    rate=st.sampled_from(RATES),
    order=st.randoms(use_true_random=False),
)
def test_the_threshold_is_one_of_the_scores_whatever_their_order(scores, rate, order):
    threshold = conformal_threshold(scores, rate)
    shuffled = order.sample(scores, len(scores))
    assert threshold in scores
    assert conformal_threshold(shuffled, rate) == threshold
    assert np.mean(np.asarray(scores) > threshold) <= rate


@given(scores=st.lists(st.floats(-1e6, 1e6), min_size=99, max_size=150))
def test_a_stricter_promise_never_lowers_the_threshold(scores):
    thresholds = [conformal_threshold(scores, rate) for rate in RATES]
    assert thresholds == sorted(thresholds, reverse=True)


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (40, 0.05), (99, 0.01), (37, 0.1), (80, 0.2)])
@pytest.mark.parametrize("law", ["normal", "lognormal", "cauchy"])
def test_the_false_alarm_rate_on_fresh_normals_is_what_was_promised(count, rate, law):
    """20 000 repetitions: never above the promise, and below it by no more than one rank is worth."""
    rng = np.random.default_rng(5)
    draw = {"normal": rng.normal, "lognormal": rng.lognormal, "cauchy": lambda size: rng.standard_cauchy(size)}[law]
    repetitions = 20_000
    calibrating, fresh = draw(size=(repetitions, count)), draw(size=repetitions)
    alarms = np.mean([conformal_threshold(scores, rate) < new for scores, new in zip(calibrating, fresh, strict=True)])
    monte_carlo = 4 * math.sqrt(rate * (1 - rate) / repetitions)
    assert rate - 1 / (count + 1) - monte_carlo <= alarms <= rate + monte_carlo


def test_ties_can_only_make_alarms_rarer():
    rng = np.random.default_rng(6)
    calibrating, fresh = rng.integers(0, 3, size=(5000, 40)), rng.integers(0, 3, size=5000)
    alarms = np.mean([conformal_threshold(scores, 0.1) < new for scores, new in zip(calibrating, fresh, strict=True)])
    assert alarms <= 0.1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match="class 'bolt': 1 of 41 scores are not finite; check the features"):
        conformal_threshold([*range(40), value], 0.05, subject="class 'bolt'")


def test_the_error_names_subject_value_bound_and_the_way_out():
    with pytest.raises(ValueError) as caught:
        conformal_threshold(range(12), 0.05, subject="class 'bolt'")
    assert str(caught.value) == (
        "class 'bolt': 12 calibration normals, need 19 for a false-alarm rate of 0.05; "
        "add normal images or raise calibration.target_fpr"
    )


@pytest.mark.parametrize("rate", RATES)
def test_what_can_be_promised_is_the_target_or_the_least_above_it(rate):
    for count in range(1, 130):
        promised = promised_rate(rate, count)
        conformal_threshold(np.arange(count), promised)  # enough scores for it
        assert promised == (rate if count >= required_normals(rate) else 1 / (count + 1))
