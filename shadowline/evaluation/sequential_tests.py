"""Sequential tests: valid after every observation, and restarted after each change that they find.

    log_wealth(counts, values, bound)              # evidence against "the mean is at most `bound`"; proof at log(1/α)
    confidence_bounds(counts, values, confidence)  # an interval that holds at all times at once
    crossings(table, values, bound, alpha)         # when a change for the worse was proven, whenever it began

An observation x takes one of a few `values`. A gambler who starts with 1 and bets a share λ of the wealth on "above the
bound" holds Π (1 + λ (x − bound)). Where every conditional mean is at most the bound, this product is a nonnegative
supermartingale, so that it ever reaches 1/α with a probability of at most α (Ville's inequality), however often one
looks. A mixture over a few fixed λ is a supermartingale as well, and depends on the counts of the values alone.

    V values · J bets · D days · E moments at which the wealth is computed

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2024, section 4 and
appendix B.8: fixed bets, mixed); Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential
change detection" (2023: one process per starting time); Ville (1939).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import logsumexp

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUM_BETS = 10  # each half of the one before: between two of them little power is lost
LARGEST_BET = 0.95  # of the stake at which one worst observation would leave nothing
_LEAST = 1e-9  # of the range of the values: the smallest distance of a bound from the smallest of them
_FIRST_CHUNK = 32  # moments that are looked at together, at first
_MOST_NUMBERS = 2_000_000  # held at once


def bets(values: Sequence[float], bound: float) -> Floats:
    """The stakes λ_J, from the largest that a worst observation survives. Raises ValueError for a useless bound."""
    lowest, highest = min(values), max(values)
    if not lowest < bound < highest:
        raise ValueError(
            f"bound {bound:g}: must lie between the smallest and the largest value, {lowest:g}…{highest:g}"
        )
    stakes = LARGEST_BET / (bound - lowest) * 0.5 ** np.arange(NUM_BETS)
    return np.asarray(stakes, dtype=np.float64)


def log_wealth(counts: npt.ArrayLike, values: Sequence[float], bound: float) -> Floats:
    """Log of the wealth against "no conditional mean exceeds `bound`"; `counts` (..., V), result (...)."""
    gains_VJ = np.log1p(np.outer(np.asarray(values, dtype=np.float64) - bound, bets(values, bound)))
    wealth: Floats = logsumexp(np.asarray(counts, dtype=np.float64) @ gains_VJ, axis=-1) - np.log(NUM_BETS)
    return wealth


def confidence_bounds(counts: npt.ArrayLike, values: Sequence[float], confidence: float) -> tuple[float, float]:
    """(low, high) for the mean: all bounds that neither one-sided test at (1 − confidence)/2 rejects.

    Holds at all times at once for a constant mean. Without observations it is the whole range.
    """
    counted = np.asarray(counts, dtype=np.float64)
    lowest, highest = float(min(values)), float(max(values))
    mirrored = [-value for value in values]
    threshold = np.log(2.0 / (1.0 - confidence))
    low = _lower_bound(counted, values, threshold, lowest, highest)
    high = -_lower_bound(counted, mirrored, threshold, -highest, -lowest)
    return low, high


def _lower_bound(counts: Floats, values: Sequence[float], threshold: float, lowest: float, highest: float) -> float:
    """The smallest mean that is not rejected; the wealth falls as the bound rises."""
    margin = _LEAST * (highest - lowest)

    def excess(bound: float) -> float:
        return float(log_wealth(counts, values, bound)) - threshold

    if not counts.sum() or excess(lowest + margin) < 0:
        return lowest
    if excess(highest - margin) > 0:
        return highest
    return float(brentq(excess, lowest + margin, highest - margin, xtol=1e-9))


@dataclass(frozen=True, eq=False)
class ChangeTable:
    """Rows of counts that add up: when something became known, and of observations of which day.

    An observation whose value changes later, because a label came, has a row that takes the old value back.
    """

    moment: Ints  # (R,) when it became known, any rising clock
    day: Ints  # (R,) of the observation itself, 0, 1, 2 …
    value: Ints  # (R,) index into the values
    count: Ints  # (R,) how many; negative where it takes something back

    def added_up(self) -> ChangeTable:
        """One row for each moment, day and value; rows that add up to 0 are left out."""
        keys_R3 = np.stack([self.moment, self.day, self.value], axis=1)
        keys, position = np.unique(keys_R3, axis=0, return_inverse=True)
        count = np.bincount(position.ravel(), weights=self.count, minlength=len(keys)).astype(np.int64)
        moment, day, value = keys[count != 0].T
        return ChangeTable(moment, day, value, count[count != 0])

    def since(self, day: int) -> ChangeTable | None:
        """The observations of this day and of later days, renumbered from 0; None where there are none."""
        late = self.day >= day
        if not late.any():
            return None
        return ChangeTable(self.moment[late], self.day[late] - day, self.value[late], self.count[late])


def crossings(table: ChangeTable, values: Sequence[float], bound: float, alpha: float) -> tuple[int, ...]:
    """Moments at which "the mean is at most `bound`" was rejected at level `alpha`, counting anew after each.

    One process begins on each day k with the stake 1/(k (k + 1)), which sum to 1: a change is found however long
    everything was well before it, and all processes together still reject wrongly with a probability of at most
    `alpha` until the first crossing. Wealth only rises where a value above the bound comes in or one below it is taken
    back, so that it is computed there alone. Late values can only delay a crossing where a value that is not known yet
    counts as one that does not exceed the bound. A bound that no value exceeds is never crossed; one at the smallest
    value, or below it, is crossed by the first value above that.
    """
    if bound >= max(values):
        return ()
    moments: list[int] = []
    rest: ChangeTable | None = table.added_up()
    while rest is not None and (crossed := _first_crossing(rest, values, bound, alpha)) is not None:
        moments.append(crossed)
        rest = rest.since(int(rest.day[rest.moment <= crossed].max()) + 1)
    return tuple(moments)


def _first_crossing(table: ChangeTable, values: Sequence[float], bound: float, alpha: float) -> int | None:
    """The first moment at which the mixture over all starting days has reached 1/`alpha`."""
    if bound <= min(values) + _LEAST * (max(values) - min(values)):
        return _first_above(table, np.asarray(values) > min(values))
    differences = np.asarray(values, dtype=np.float64) - bound
    gains_VJ = np.log1p(np.outer(differences, bets(values, bound)))
    moments_E = np.unique(table.moment[differences[table.value] * table.count > 0])
    position = np.searchsorted(moments_E, table.moment)
    known_DV = np.zeros((0, len(values)))
    start, size = 0, _FIRST_CHUNK
    while start < len(moments_E):
        stop = min(start + size, len(moments_E))
        rows = (position >= start) & (position < stop)
        num_days = max(len(known_DV), int(table.day[rows].max(initial=-1)) + 1)
        new_EDV = np.zeros((stop - start, num_days, len(values)))
        np.add.at(new_EDV, (position[rows] - start, table.day[rows], table.value[rows]), table.count[rows])
        new_EDV[0, : len(known_DV)] += known_DV
        known_EDV = np.cumsum(new_EDV, axis=0)
        beyond = np.flatnonzero(_mixed_wealth(known_EDV, gains_VJ) >= np.log(1.0 / alpha))
        if beyond.size:
            return int(moments_E[start + beyond[0]])
        known_DV, start = known_EDV[-1], stop
        size = max(_FIRST_CHUNK, min(2 * size, _MOST_NUMBERS // (num_days * NUM_BETS)))
    return None


def strongest_start(table: ChangeTable, values: Sequence[float], bound: float, moment: int) -> tuple[int, Ints]:
    """The starting day whose process speaks most against the bound at a moment, and the counts (V,) since that day."""
    is_known = table.moment <= moment
    by_day_DV = np.zeros((int(table.day[is_known].max(initial=0)) + 1, len(values)), dtype=np.int64)
    np.add.at(by_day_DV, (table.day[is_known], table.value[is_known]), table.count[is_known])
    since_DV = by_day_DV[::-1].cumsum(axis=0)[::-1]
    if bound <= min(values) + _LEAST * (max(values) - min(values)):
        return 0, since_DV[0]
    starts = np.arange(1, len(since_DV) + 1)
    start = int(np.argmax(log_wealth(since_DV, values, bound) - np.log(starts * (starts + 1.0))))
    return start, since_DV[start]


def _first_above(table: ChangeTable, is_above_V: npt.NDArray[np.bool_]) -> int | None:
    """The first moment at which a value above the smallest is known."""
    above = is_above_V[table.value]
    moments_E, position = np.unique(table.moment[above], return_inverse=True)
    known_E = np.cumsum(np.bincount(position, weights=table.count[above], minlength=len(moments_E)))
    return int(moments_E[np.argmax(known_E > 0)]) if (known_E > 0).any() else None


def _mixed_wealth(known_EDV: Floats, gains_VJ: Floats) -> Floats:
    """(E,) log of the wealth of all bets from all starting days together.

    The stakes of all later days, 1/(D + 1) in sum, are not bet yet and count in full: the result does not depend on D.
    """
    starts = np.arange(1, known_EDV.shape[1] + 1)
    log_stakes_D1 = -np.log(starts * (starts + 1.0))[:, None]
    since_EDV = np.cumsum(known_EDV[:, ::-1], axis=1)[:, ::-1]
    staked: Floats = logsumexp(since_EDV @ gains_VJ + log_stakes_D1, axis=(1, 2)) - np.log(NUM_BETS)
    wealth: Floats = np.logaddexp(staked, -np.log(len(starts) + 1.0))
    return wealth
