"""How often both models err on all parts of the production, estimated from the parts that an inspector has labelled.

    estimate_rates(table, confidence=0.95).candidate.missed_defects       # 3.1% [1.2%, 6.0%] from 140 labelled parts

Parts are split by both decisions into four cells C × G. Where the models disagree, every part is meant to be labelled.
Where they agree, also on a defect that both miss, only parts that were drawn at random for a review count, each for 1/π
parts, π its selection probability (`review_share` at its receipt; Horvitz and Thompson, "A generalization of sampling
without replacement from a finite universe", JASA 1952). Missing labels are taken to be missing at random within a cell
and a review share, and π is multiplied by the share of labels that came. Any other label is left out: defects that an
inspector finds by himself are no random sample.

The share of defects in a cell is the ratio Σ w y / Σ w with w = 1/π (Hájek, discussion in "Foundations of statistical
inference", 1971), and the cell's number of parts is known. Its interval is Wilson's (see `agreement.Rate`) for an
effective number of labels: (Σ w)² / Σ (1 − π) w² (Kish, "Survey sampling", 1965, with finite population correction), or
the number that gives the linearised variance of the ratio, where that is smaller (Korn and Graubard, "Confidence
intervals for proportions with small expected number of positive counts estimated from survey data", 1998). Cells are
independent; their intervals are combined by the method of variance estimates recovery (Zou and Donner, "Construction of
confidence limits about effect measures", 2008; ratios: Donner and Zou, 2012).

What is estimated are the rates of the parts that were received, not of a process behind them: with all parts labelled
the interval is a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from statsmodels.stats.proportion import proportion_confint

from shadowline.evaluation.evidence import ALARM, ANOMALOUS, NO_ALARM, UNLABELLED, EvidenceTable
from shadowline.evaluation.sequential_tests import Floats

_DECISIONS = (NO_ALARM, ALARM)


@dataclass(frozen=True)
class EstimatedRate:
    """A share of parts, with its interval; NaN and 0…1 where it was not measured."""

    value: float
    low: float
    high: float
    num_labelled: int  # parts that it is estimated from

    @property
    def is_measured(self) -> bool:
        return not math.isnan(self.value)

    def __str__(self) -> str:
        if not self.is_measured:
            return "not measured"
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] from {self.num_labelled} labelled parts"


@dataclass(frozen=True)
class ErrorRates:
    """The error rates of one model."""

    missed_parts: EstimatedRate  # missed defects, of all parts
    missed_defects: EstimatedRate  # of all defects
    false_alarms: EstimatedRate  # of all good parts


@dataclass(frozen=True)
class ReviewRates:
    """The error rates of both models, on the same parts."""

    num_parts: int  # of the production, judged by both
    candidate: ErrorRates
    legacy: ErrorRates


@dataclass(frozen=True)
class _Total:
    """A number of parts, with its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def sum_of(cls, totals: Sequence[_Total]) -> _Total:
        """The sum of independent totals."""
        value = sum(total.value for total in totals)
        below = math.hypot(*(total.value - total.low for total in totals))
        above = math.hypot(*(total.high - total.value for total in totals))
        return cls(value, max(0.0, value - below), value + above)


@dataclass(frozen=True)
class _Cell:
    """Parts with the same decision of the candidate and the same decision of the legacy model."""

    num_parts: int
    num_labelled: int
    defects: _Total
    good: _Total

    @property
    def is_measured(self) -> bool:
        return self.num_labelled > 0 or self.num_parts == 0


def estimate_rates(table: EvidenceTable, confidence: float) -> ReviewRates:
    """Rates of the parts of the production that both models judged.

    A rate is not measured where a cell that it is made of has parts and no usable label. Raises ValueError for a part
    that was drawn with the probability 0.
    """
    parts = table.where(table.both_judged & table.produced)
    cells = {
        (candidate, legacy): _cell(
            parts.where((parts.candidate == candidate) & (parts.legacy == legacy)), candidate != legacy, confidence
        )
        for candidate in _DECISIONS
        for legacy in _DECISIONS
    }

    def rates(alarm_of: Callable[[tuple[int, int]], int]) -> ErrorRates:
        quiet = [cell for both, cell in cells.items() if alarm_of(both) == NO_ALARM]
        flagged = [cell for both, cell in cells.items() if alarm_of(both) == ALARM]
        return _error_rates(quiet, flagged)

    num_parts = sum(cell.num_parts for cell in cells.values())
    return ReviewRates(num_parts, candidate=rates(lambda both: both[0]), legacy=rates(lambda both: both[1]))


def _error_rates(quiet: Sequence[_Cell], flagged: Sequence[_Cell]) -> ErrorRates:
    """The error rates of the model that let the parts in `quiet` pass and flagged those in `flagged`."""
    cells = [*quiet, *flagged]
    num_parts = sum(cell.num_parts for cell in cells)
    missed, hit = (_Total.sum_of([cell.defects for cell in side]) for side in (quiet, flagged))
    passed, false_alarms = (_Total.sum_of([cell.good for cell in side]) for side in (quiet, flagged))
    return ErrorRates(
        missed_parts=_rate(_share_of_all(missed, num_parts), quiet),
        missed_defects=_rate(_share(missed, hit), cells),
        false_alarms=_rate(_share(false_alarms, passed), cells),
    )


def _rate(share: _Total | None, cells: Sequence[_Cell]) -> EstimatedRate:
    if share is None or not all(cell.is_measured for cell in cells):
        return EstimatedRate(float("nan"), 0.0, 1.0, 0)
    num_labelled = sum(cell.num_labelled for cell in cells)
    return EstimatedRate(share.value, share.low, min(1.0, share.high), num_labelled)


def _share_of_all(total: _Total, num_parts: int) -> _Total | None:
    return _Total(*(number / num_parts for number in (total.value, total.low, total.high))) if num_parts else None


def _share(these: _Total, others: _Total) -> _Total | None:
    """these / (these + others): all θ for which 0 lies in the interval of (1 − θ) these − θ others; None for 0 / 0."""
    whole = these.value + others.value
    if whole == 0.0:
        return None

    def limit(distance_these: float, distance_others: float, sign: int) -> float:
        """The distances are those of the limits of `these` and `others` that matter on this side."""

        def excess(theta: float) -> float:
            middle = (1.0 - theta) * these.value - theta * others.value
            return middle + sign * math.hypot((1.0 - theta) * distance_these, theta * distance_others)

        if excess(0.0) <= 0.0:
            return 0.0
        return 1.0 if excess(1.0) >= 0.0 else float(brentq(excess, 0.0, 1.0))

    value = these.value / whole
    low = limit(these.value - these.low, others.high - others.value, -1)
    high = limit(these.high - these.value, others.value - others.low, +1)
    return _Total(value, min(low, value), max(high, value))


def _cell(parts: EvidenceTable, is_disagreement: bool, confidence: float) -> _Cell:
    num_parts = int(parts.count.sum())
    counts_P2, probability_P = _labelled(parts, is_disagreement)
    num_labelled = int(counts_P2.sum())
    if not num_labelled:
        nothing_known = _Total(num_parts / 2, 0.0, float(num_parts))
        return _Cell(num_parts, 0, nothing_known, nothing_known)
    share, low, high = (num_parts * value for value in _hajek(counts_P2, probability_P, confidence))
    return _Cell(
        num_parts, num_labelled, _Total(share, low, high), _Total(num_parts - share, num_parts - high, num_parts - low)
    )


def _labelled(parts: EvidenceTable, is_disagreement: bool) -> tuple[Floats, Floats]:
    """(P, 2) labelled parts, good and anomalous, and (P,) the probability that such a part was drawn and labelled."""
    selected = parts if is_disagreement else parts.where(parts.drawn)
    if not is_disagreement and (selected.review_share <= 0.0).any():
        raise ValueError("a part was drawn for review with the probability 0; record the review share at its receipt")
    shares, group = np.unique(np.ones(len(selected)) if is_disagreement else selected.review_share, return_inverse=True)
    counts_P3 = np.zeros((len(shares), 3))
    np.add.at(counts_P3, (group, selected.label), selected.count)
    known_P = counts_P3[:, UNLABELLED + 1 :].sum(axis=1)
    some = known_P > 0
    probability = shares[some] * known_P[some] / counts_P3[some].sum(axis=1)
    return counts_P3[some, UNLABELLED + 1 :], probability


def _hajek(counts_P2: Floats, probability_P: Floats, confidence: float) -> tuple[float, float, float]:
    """The share of anomalous parts, with its interval."""
    weight_P = 1.0 / probability_P
    number_P, anomalous_P = counts_P2.sum(axis=1), counts_P2[:, ANOMALOUS - 1]
    total = float(weight_P @ number_P)
    share = min(1.0, float(weight_P @ anomalous_P) / total)
    spread_P = (1.0 - probability_P) * weight_P**2
    kish = float(spread_P @ number_P) / total**2  # 1 / effective number of labels
    squares_P = anomalous_P * (1.0 - share) ** 2 + (number_P - anomalous_P) * share**2
    variance = float(spread_P @ squares_P) / total**2
    scatter = share * (1.0 - share)
    inverse = max(kish, variance / scatter) if scatter > 0.0 else kish
    if inverse <= 0.0:
        return share, share, share
    low, high = proportion_confint(share / inverse, 1.0 / inverse, alpha=1.0 - confidence, method="wilson")
    return share, min(float(low), share), max(float(high), share)
