"""Tests that may be looked at after every observation: against confseq, by laws, and by simulation."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from shadowline.evaluation.sequential_tests import NUM_BETS, ChangeTable, bets, confidence_bounds, crossings, log_wealth

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("confseq_reference.json").read_text())
CASES: dict[str, dict[str, Any]] = REFERENCE["cases"]
NO_YES, LESS_SAME_MORE = (0.0, 1.0), (-1.0, 0.0, 1.0)

bounds = st.floats(0.001, 0.999)
counts_of_three = st.lists(st.integers(0, 300), min_size=3, max_size=3)

# An observation: day, moments until it becomes known, value; then moments until its label, and what that says.
observations = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 7), st.integers(0, 1), st.integers(0, 30), st.booleans()),
    min_size=1,
    max_size=60,
)
MOMENTS_A_DAY = 8


def table_of(rows: list[tuple[int, int, int, int]]) -> ChangeTable:
    columns = np.asarray(rows, dtype=np.int64).reshape(-1, 4).T
    return ChangeTable(*columns)


def rows_of(drawn: list[tuple[int, int, int, int, bool]], extra_delay: int = 0) -> list[tuple[int, int, int, int]]:
    """Received as the value 0 where a label will say 1: until then it counts for the candidate."""
    rows = []
    for day, position, value, delay, is_labelled in drawn:
        received = day * MOMENTS_A_DAY + position
        if value and is_labelled:
            known = received + delay + extra_delay
            rows += [(received, day, 0, 1), (known, day, 0, -1), (known, day, 1, 1)]
        else:
            rows.append((received, day, value, 1))
    return rows


def slow_crossings(
    rows: list[tuple[int, int, int, int]], values: tuple[float, ...], bound: float, alpha: float
) -> list[int]:
    """As the definition says: every moment, every starting day, every bet, every row; money not staked yet is kept."""
    stakes = bets(values, bound).tolist()
    found: list[int] = []
    first_day = 0
    for moment in sorted({moment for moment, *_ in rows}):
        known = [row for row in rows if row[0] <= moment and row[1] >= first_day]
        if not known:
            continue
        num_days = max(day for _, day, _, _ in known) - first_day + 1
        wealth = 1.0 / (num_days + 1)
        for start in range(num_days):
            for stake in stakes:
                gain = 1.0 / len(stakes) / ((start + 1) * (start + 2))
                for _, day, value, count in known:
                    if day - first_day >= start:
                        gain *= (1.0 + stake * (values[value] - bound)) ** count
                wealth += gain
        risen = any(row[0] == moment and row[3] > 0 and values[row[2]] > bound for row in known)
        if risen and wealth >= 1.0 / alpha:
            found.append(moment)
            first_day += num_days
    return found


class TestAgainstConfseq:
    """The implementation of the authors of the method; `make_confseq_reference.py` wrote its values down."""

    @pytest.mark.parametrize("name", CASES)
    def test_the_wealth_is_theirs_at_every_step(self, name: str) -> None:
        halves = np.array(CASES[name]["halves"])
        counts_EV = np.cumsum(halves[:, None] == np.arange(3), axis=0)
        for bound, expected in CASES[name]["wealth"].items():
            wealth = np.exp(log_wealth(counts_EV, (0.0, 0.5, 1.0), float(bound)))
            assert wealth == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("name", CASES)
    def test_it_does_not_matter_on_which_scale_the_values_are_given(self, name: str) -> None:
        """[0, 1] of the reference is [−1, 1] of a comparison of two models."""
        halves = np.array(CASES[name]["halves"])
        counts_EV = np.cumsum(halves[:, None] == np.arange(3), axis=0)
        for bound, expected in CASES[name]["wealth"].items():
            wealth = np.exp(log_wealth(counts_EV, LESS_SAME_MORE, 2 * float(bound) - 1))
            assert wealth == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("name", CASES)
    def test_the_interval_of_the_same_bets_is_theirs(self, name: str) -> None:
        """They search on a grid of 1/1000 and give one step of it away on either side."""
        found = confidence_bounds(_counts(name), (0.0, 0.5, 1.0), 1.0 - REFERENCE["alpha"])
        assert found == pytest.approx(CASES[name]["same_bets"], abs=2.5 / REFERENCE["breaks"])

    @pytest.mark.parametrize("name", CASES)
    def test_the_interval_is_of_the_width_of_their_usual_one(self, name: str) -> None:
        """Bets that follow the data; a mixture that depends on counts alone costs little, or gains."""
        low, high = confidence_bounds(_counts(name), (0.0, 0.5, 1.0), 1.0 - REFERENCE["alpha"])
        their_low, their_high = CASES[name]["predictable_plug_in"]
        mean = np.mean(CASES[name]["halves"]) / 2
        assert low <= mean <= high and their_low <= mean <= their_high
        assert 0.3 <= (high - low) / (their_high - their_low) <= 1.3


def _counts(name: str) -> np.ndarray:
    return np.bincount(CASES[name]["halves"], minlength=3)


class TestLawsOfWealth:
    @given(st.lists(st.integers(0, 2), max_size=80), st.randoms(use_true_random=False), bounds)
    def test_it_depends_on_counts_alone(self, drawn: list[int], random: Any, bound: float) -> None:
        """The product of the gains in any order is the wealth of the counts."""
        shuffled = random.sample(drawn, len(drawn))
        wealth = np.ones(NUM_BETS) / NUM_BETS
        for index in shuffled:
            wealth *= 1.0 + bets(LESS_SAME_MORE, bound) * (LESS_SAME_MORE[index] - bound)
        counts = np.bincount(drawn, minlength=3) if drawn else np.zeros(3)
        assert log_wealth(counts, LESS_SAME_MORE, bound) == pytest.approx(math.log(wealth.sum()), abs=1e-8)

    @given(counts_of_three, st.lists(bounds, min_size=2, max_size=5))
    def test_it_falls_as_the_bound_rises(self, counts: list[int], several: list[float]) -> None:
        wealth = [float(log_wealth(counts, LESS_SAME_MORE, bound)) for bound in sorted(several)]
        assert all(before >= after - 1e-9 for before, after in pairwise(wealth))

    @given(bounds)
    def test_without_observations_it_is_the_stake(self, bound: float) -> None:
        assert log_wealth([0, 0], NO_YES, bound) == pytest.approx(0.0, abs=1e-12)

    @given(counts_of_three, st.floats(-0.999, 0.999))
    def test_it_is_never_ruined_and_a_worst_observation_lowers_it(self, counts: list[int], bound: float) -> None:
        wealth = float(log_wealth(counts, LESS_SAME_MORE, bound))
        worse = float(log_wealth([counts[0] + 1, *counts[1:]], LESS_SAME_MORE, bound))
        assert math.isfinite(wealth) and worse < wealth + 1e-12

    @given(st.floats(0.001, 0.999), st.floats(-5.0, 5.0), st.floats(0.1, 10.0))
    def test_at_the_bound_a_bet_is_fair(self, bound: float, shift: float, scale: float) -> None:
        """Of two values whose mean is the bound, the expected wealth after an observation is the wealth before it."""
        values = (shift, shift + scale)
        at = shift + scale * bound
        up, down = (math.exp(log_wealth(counts, values, at)) for counts in ([0, 1], [1, 0]))
        assert bound * up + (1 - bound) * down == pytest.approx(1.0, rel=1e-6)

    @pytest.mark.parametrize("bound", [-0.1, 0.0, 1.0, 1.5, math.nan])
    def test_a_bound_that_no_bet_can_be_about_is_refused(self, bound: float) -> None:
        with pytest.raises(ValueError, match=r"must lie between the smallest and the largest value, 0…1"):
            log_wealth([1, 1], NO_YES, bound)


class TestLawsOfTheInterval:
    @given(counts_of_three, st.floats(0.5, 0.999))
    def test_it_holds_the_observed_mean(self, counts: list[int], confidence: float) -> None:
        low, high = confidence_bounds(counts, LESS_SAME_MORE, confidence)
        assert -1.0 <= low <= high <= 1.0
        if sum(counts):
            mean = float(np.dot(counts, LESS_SAME_MORE)) / sum(counts)
            assert low <= mean + 1e-8 and mean - 1e-8 <= high

    @given(counts_of_three, st.floats(0.5, 0.999))
    def test_mirrored_values_mirror_it(self, counts: list[int], confidence: float) -> None:
        low, high = confidence_bounds(counts, LESS_SAME_MORE, confidence)
        there = confidence_bounds(counts[::-1], LESS_SAME_MORE, confidence)
        assert there == pytest.approx((-high, -low), abs=1e-7)

    @given(counts_of_three, st.floats(0.5, 0.95))
    def test_it_widens_with_the_confidence(self, counts: list[int], confidence: float) -> None:
        low, high = confidence_bounds(counts, LESS_SAME_MORE, confidence)
        wider = confidence_bounds(counts, LESS_SAME_MORE, confidence + 0.04)
        assert wider[0] <= low + 1e-8 and high - 1e-8 <= wider[1]

    def test_without_observations_it_is_the_whole_range(self) -> None:
        assert confidence_bounds([0, 0, 0], LESS_SAME_MORE, 0.95) == (-1.0, 1.0)

    @given(counts_of_three, st.floats(0.5, 0.999))
    def test_it_ends_where_the_wealth_reaches_its_threshold(self, counts: list[int], confidence: float) -> None:
        low, _ = confidence_bounds(counts, LESS_SAME_MORE, confidence)
        if -0.999 < low < 0.999:
            assert float(log_wealth(counts, LESS_SAME_MORE, low)) == pytest.approx(
                math.log(2 / (1 - confidence)), abs=1e-3
            )


class TestLawsOfCrossings:
    @given(observations, st.sampled_from([0.02, 0.1, 0.4]), st.sampled_from([0.3, 0.05, 0.005]))
    @settings(max_examples=examples(60), deadline=None)
    def test_they_are_those_of_the_definition(
        self, drawn: list[tuple[int, int, int, int, bool]], bound: float, alpha: float
    ) -> None:
        rows = rows_of(drawn)
        assert list(crossings(table_of(rows), NO_YES, bound, alpha)) == slow_crossings(rows, NO_YES, bound, alpha)

    @given(observations, st.sampled_from([-0.3, 0.02, 0.4]))
    @settings(max_examples=examples(40), deadline=None)
    def test_those_of_three_values_too(self, drawn: list[tuple[int, int, int, int, bool]], bound: float) -> None:
        rows = [(day * MOMENTS_A_DAY + at, day, value + flag, 1) for day, at, value, _, flag in drawn]
        found = list(crossings(table_of(rows), LESS_SAME_MORE, bound, 0.05))
        assert found == slow_crossings(rows, LESS_SAME_MORE, bound, 0.05)

    @given(observations, st.randoms(use_true_random=False), st.integers(1, 4))
    @settings(deadline=None)
    def test_they_do_not_depend_on_how_rows_are_split_or_ordered(
        self, drawn: list[tuple[int, int, int, int, bool]], random: Any, parts: int
    ) -> None:
        rows = rows_of(drawn * 3)
        net: dict[tuple[int, int, int], int] = {}
        for *key, count in rows:
            net[tuple(key)] = net.get(tuple(key), 0) + count
        whole = [(*key, parts * count) for key, count in net.items()]
        split = [row for row in rows for _ in range(parts)]
        expected = crossings(table_of(whole), NO_YES, 0.1, 0.01)
        assert crossings(table_of(random.sample(split, len(split))), NO_YES, 0.1, 0.01) == expected

    @given(observations, observations, st.sampled_from([0.2, 0.02]))
    @settings(deadline=None)
    def test_what_comes_later_never_changes_an_earlier_crossing(
        self,
        drawn: list[tuple[int, int, int, int, bool]],
        later: list[tuple[int, int, int, int, bool]],
        alpha: float,
    ) -> None:
        rows = rows_of(drawn)
        end = max(moment for moment, *_ in rows)
        more = [(moment + end + 1, day + 6, value, count) for moment, day, value, count in rows_of(later)]
        before = crossings(table_of(rows), NO_YES, 0.1, alpha)
        after = crossings(table_of(rows + more), NO_YES, 0.1, alpha)
        assert tuple(moment for moment in after if moment <= end) == before

    def test_days_that_have_not_begun_give_no_wealth_to_those_that_have(self) -> None:
        """The level lies between the wealth with and without the stake of a second day that comes later."""
        rows = [(0, 0, 1, 3)]
        wealth = math.exp(log_wealth([0, 3], NO_YES, 0.1)) / 2 + 1 / 2
        alpha = 1 / (wealth + 0.01)
        assert crossings(table_of(rows), NO_YES, 0.1, alpha) == ()
        assert crossings(table_of([*rows, (40, 1, 0, 1)]), NO_YES, 0.1, alpha) == ()
        assert crossings(table_of([*rows, (40, 1, 1, 1)]), NO_YES, 0.1, alpha) == (40,)
        assert crossings(table_of(rows), NO_YES, 0.1, 1 / (wealth - 0.01)) == (0,)

    @given(observations, st.integers(1, 40))
    @settings(deadline=None)
    def test_a_late_bad_label_never_makes_the_first_crossing_earlier(
        self, drawn: list[tuple[int, int, int, int, bool]], later: int
    ) -> None:
        prompt = crossings(table_of(rows_of(drawn * 2)), NO_YES, 0.1, 0.05)
        late = crossings(table_of(rows_of(drawn * 2, extra_delay=later)), NO_YES, 0.1, 0.05)
        assert not late or (prompt and prompt[0] <= late[0])

    @given(observations, st.floats(-1.0, 2.0))
    @settings(deadline=None)
    def test_a_higher_bound_is_never_crossed_earlier(
        self, drawn: list[tuple[int, int, int, int, bool]], bound: float
    ) -> None:
        table = table_of(rows_of(drawn))
        low, high = (crossings(table, NO_YES, at, 0.05) for at in (bound, bound + 0.1))
        assert not high or low[0] <= high[0]

    @pytest.mark.parametrize("bound", [0.0, -0.5])
    def test_a_bound_at_the_smallest_value_is_crossed_by_the_first_value_above_it(self, bound: float) -> None:
        rows = [(0, 0, 0, 1_000_000), (1, 0, 1, 1)]
        assert crossings(table_of(rows), NO_YES, bound, 0.001) == (1,)
        assert crossings(table_of(rows[:1]), NO_YES, bound, 0.001) == ()

    @pytest.mark.parametrize("bound", [1.0, 1.5])
    def test_a_bound_that_no_value_exceeds_is_never_crossed(self, bound: float) -> None:
        assert crossings(table_of([(0, 0, 1, 1_000_000)]), NO_YES, bound, 0.5) == ()

    def test_nothing_crosses_nothing(self) -> None:
        assert crossings(table_of([]), NO_YES, 0.1, 0.05) == ()


def by_day(yes_RD: np.ndarray, a_day: int) -> list[ChangeTable]:
    """One moment a day."""
    days = np.arange(yes_RD.shape[1])
    twice = np.concatenate([days, days])
    value = np.repeat([0, 1], len(days))
    return [ChangeTable(twice, twice, value, np.concatenate([a_day - yes, yes])) for yes in yes_RD]


class TestBySimulation:
    @pytest.mark.parametrize(
        ("bound", "a_day", "num_days", "alpha"),
        [(0.01, 100, 60, 0.05), (0.05, 20, 120, 0.05), (0.10, 5, 60, 0.2), (0.50, 3, 60, 0.2), (0.90, 4, 40, 0.2)],
    )
    def test_at_the_bound_it_is_rarely_ever_crossed(
        self, bound: float, a_day: int, num_days: int, alpha: float
    ) -> None:
        """At most α of the runs, with three standard errors for the number of runs."""
        runs = 300
        yes_RD = np.random.default_rng(num_days).binomial(a_day, bound, size=(runs, num_days))
        crossed = sum(bool(crossings(table, NO_YES, bound, alpha)) for table in by_day(yes_RD, a_day))
        assert crossed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)

    @pytest.mark.parametrize(("mean", "num_looks"), [(0.01, 3_000), (0.2, 1_000), (0.5, 1_000), (0.97, 1_000)])
    def test_the_interval_holds_the_mean_at_all_times_at_once(self, mean: float, num_looks: int) -> None:
        """The mean lies inside if and only if neither wealth against it has reached its threshold."""
        runs, confidence = 1_000, 0.9
        yes_RE = np.cumsum(np.random.default_rng(num_looks).random((runs, num_looks)) < mean, axis=1)
        no_RE = np.arange(1, num_looks + 1) - yes_RE
        counts = np.stack([no_RE, yes_RE], axis=-1)[:, 19::20]
        above = log_wealth(counts, NO_YES, mean)
        below = log_wealth(counts, (0.0, -1.0), -mean)
        missed = (np.maximum(above, below) >= math.log(2 / (1 - confidence))).any(axis=1).mean()
        assert missed <= 1 - confidence + 3 * math.sqrt(confidence * (1 - confidence) / runs)

    @given(st.integers(1, 400), st.floats(0.02, 0.98), st.floats(0.02, 0.98))
    def test_a_mean_lies_inside_if_and_only_if_its_wealth_is_below_the_threshold(
        self, total: int, share: float, mean: float
    ) -> None:
        """What the simulation above relies on."""
        counts = [total - round(share * total), round(share * total)]
        low, high = confidence_bounds(counts, NO_YES, 0.9)
        wealth = max(float(log_wealth(counts, NO_YES, mean)), float(log_wealth(counts, (0.0, -1.0), -mean)))
        if min(abs(mean - low), abs(mean - high)) > 1e-6:
            assert (low < mean < high) == (wealth < math.log(20))

    @pytest.mark.parametrize(
        ("before", "after", "bound", "a_day", "within_days"),
        [(0.0, 0.05, 0.01, 100, 4), (0.01, 0.15, 0.05, 100, 3), (0.02, 0.20, 0.10, 20, 17), (0.05, 0.5, 0.1, 100, 1)],
    )
    def test_a_change_after_forty_days_is_found(
        self, before: float, after: float, bound: float, a_day: int, within_days: int
    ) -> None:
        """The median delay over 40 runs, and it is found in all of them."""
        rng = np.random.default_rng(a_day)
        good = rng.binomial(a_day, before, size=(40, 40))
        bad = rng.binomial(a_day, after, size=(40, 60))
        delays = []
        for table in by_day(np.concatenate([good, bad], axis=1), a_day):
            first = crossings(table, NO_YES, bound, 0.05 / 7)
            assert first[0] >= 40
            delays.append(first[0] - 40 + 1)
        assert np.median(delays) <= within_days

    def test_after_a_crossing_it_counts_anew(self) -> None:
        """Bad on the days 10–19 and 40–49, well otherwise: found both times, and never in between."""
        rng = np.random.default_rng(3)
        days = np.arange(60)
        is_bad = (days // 10 == 1) | (days // 10 == 4)
        yes = rng.binomial(100, np.where(is_bad, 0.3, 0.02), size=(1, 60))
        found = crossings(by_day(yes, 100)[0], NO_YES, 0.1, 0.01)
        assert {moment // 10 for moment in found} == {1, 4}
