"""Agreement statistics: against independent implementations, by simulation, and laws that no counts may break."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, rankdata
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

from shadowline.evaluation.agreement import PairCounts, Rate, agree, paired_difference, score_correlation
from shadowline.evaluation.evidence import ALARM, NO_ALARM

NUM_DRAWS = 20_000  # a coverage of 0.95 is then known to ± 0.0031, two standard errors

confidences = st.floats(0.5, 0.999)
hits_of_total = st.integers(1, 5_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
counts_of_pairs = st.lists(st.integers(0, 400), min_size=12, max_size=12).map(
    lambda cells: PairCounts(np.asarray(cells, dtype=np.int64).reshape(3, 2, 2))
)


def cells(**numbers: int) -> PairCounts:
    """`cells(n_ca=3)`: three pairs labelled normal (n, a, or u: no label), alarms of candidate (c) and legacy (g)."""
    found = PairCounts.empty().cells_LCG
    for name, number in numbers.items():
        label, _, alarms = name.partition("_")
        found["una".index(label), int("c" in alarms), int("g" in alarms)] = number
    return PairCounts(found)


def decisions(counts: PairCounts) -> tuple[list[int], list[int]]:
    """One entry a pair: candidate, legacy."""
    table = counts.table
    each = [(c, g) for c in (NO_ALARM, ALARM) for g in (NO_ALARM, ALARM) for _ in range(table[c, g])]
    return [c for c, _ in each], [g for _, g in each]


def swapped(counts: PairCounts) -> PairCounts:
    return PairCounts(counts.cells_LCG.transpose(0, 2, 1))


class TestTheWilsonInterval:
    @given(hits_of_total, confidences)
    def test_it_is_wilsons_closed_formula(self, hits_total: tuple[int, int], confidence: float) -> None:
        hits, total = hits_total
        p, z = hits / total, norm.ppf(0.5 + confidence / 2)
        middle = (p + z**2 / (2 * total)) / (1 + z**2 / total)
        half = z / (1 + z**2 / total) * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2))
        found = Rate.of(hits, total, confidence)
        assert (found.value, found.low, found.high) == pytest.approx((p, middle - half, middle + half), abs=1e-12)

    @given(hits_of_total, confidences)
    def test_it_is_that_of_statsmodels(self, hits_total: tuple[int, int], confidence: float) -> None:
        found = Rate.of(*hits_total, confidence)
        expected = proportion_confint(*hits_total, alpha=1 - confidence, method="wilson")
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)

    @given(hits_of_total, confidences)
    def test_it_holds_the_value_and_stays_within_0_and_1(self, hits_total: tuple[int, int], confidence: float) -> None:
        found = Rate.of(*hits_total, confidence)
        assert 0.0 <= found.low <= found.value <= found.high <= 1.0

    @pytest.mark.parametrize("total", [1, 300, 2_999])
    def test_a_faultless_share_reaches_1_exactly(self, total: int) -> None:
        assert Rate.of(total, total, 0.95).high == 1.0
        assert Rate.of(0, total, 0.95).low == 0.0

    def test_of_nothing_it_is_everything(self) -> None:
        found = Rate.of(0, 0, 0.95)
        assert math.isnan(found.value) and (found.low, found.high) == (0.0, 1.0)
        assert str(found) == "nothing measured"

    @pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
    @pytest.mark.parametrize("total", [20, 200, 1_000])
    def test_over_all_shares_it_covers_as_often_as_it_says(self, total: int, confidence: float) -> None:
        """Within 0.012: the interval's own deviation at 20, and the draws'."""
        rng = np.random.default_rng(total)
        p = rng.uniform(size=NUM_DRAWS)
        covered = _covered(rng.binomial(total, p), total, p, confidence)
        assert covered == pytest.approx(confidence, abs=0.012)

    @pytest.mark.parametrize("p", [0.02, 0.5, 0.9, 0.95, 0.99])
    @pytest.mark.parametrize("total", [20, 100, 200, 1_000])
    def test_at_no_share_it_covers_much_less(self, total: int, p: float) -> None:
        """At most 0.035 less than 0.95: Wilson's coverage oscillates with n and p, worst near 0 and 1."""
        hits = np.random.default_rng(total).binomial(total, p, size=NUM_DRAWS)
        assert _covered(hits, total, np.full(NUM_DRAWS, p), 0.95) >= 0.915


@cache
def _intervals(total: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    rates = [Rate.of(hits, total, confidence) for hits in range(total + 1)]
    return np.array([rate.low for rate in rates]), np.array([rate.high for rate in rates])


def _covered(hits: np.ndarray, total: int, p: np.ndarray, confidence: float) -> float:
    low, high = _intervals(total, confidence)
    return float(((low[hits] <= p) & (p <= high[hits])).mean())


class TestThePairedDifference:
    @pytest.mark.parametrize(
        ("num_pairs", "first", "second", "at_least", "at_most"),
        [  # few discordant pairs make it conservative, never too bold
            (50, 0.20, 0.05, 0.94, 0.97),
            (200, 0.10, 0.02, 0.94, 0.97),
            (200, 0.30, 0.30, 0.94, 0.97),
            (1_000, 0.03, 0.01, 0.94, 0.97),
            (200, 0.01, 0.01, 0.94, 1.00),
            (200, 0.00, 0.02, 0.94, 1.00),
            (20, 0.10, 0.10, 0.94, 1.00),
        ],
    )
    def test_it_covers_as_often_as_it_says(
        self, num_pairs: int, first: float, second: float, at_least: float, at_most: float
    ) -> None:
        rng = np.random.default_rng(num_pairs)
        drawn = rng.multinomial(num_pairs, [first, second, 1 - first - second], size=NUM_DRAWS // 4)
        covered = 0
        for only_first, only_second, _ in drawn.tolist():
            _, low, high = paired_difference(only_first, only_second, num_pairs, 0.95)
            covered += low <= first - second <= high
        assert at_least <= covered / len(drawn) <= at_most

    def test_it_is_the_papers_formula(self) -> None:
        """By hand, of 98 pairs: (10 + 1) / 100 − (4 + 1) / 100 ± 1.96 √((0.16 − 0.0036) / 100)."""
        value, low, high = paired_difference(10, 4, 98, 0.95)
        assert value == pytest.approx(6 / 98)
        half = 1.959964 * math.sqrt(0.1564 / 100)
        assert (low, high) == pytest.approx((0.06 - half, 0.06 + half), abs=1e-7)

    @given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), confidences)
    def test_it_turns_its_sign_when_the_models_swap(self, one: int, other: int, rest: int, confidence: float) -> None:
        value, low, high = paired_difference(one, other, one + other + rest, confidence)
        assert paired_difference(other, one, one + other + rest, confidence) == pytest.approx(
            (-value, -high, -low), nan_ok=True
        )
        assert -1.0 <= low <= high <= 1.0

    def test_without_pairs_it_knows_nothing(self) -> None:
        value, low, high = paired_difference(0, 0, 0, 0.95)
        assert math.isnan(value) and (low, high) == (-1.0, 1.0)


class TestAgainstOtherImplementations:
    @given(counts_of_pairs)
    def test_kappa_is_that_of_sklearn(self, counts: PairCounts) -> None:
        found = agree(counts, 0.95).kappa
        candidate, legacy = decisions(counts)
        if len({*candidate, *legacy}) < 2:
            assert found is None
        else:
            assert found == pytest.approx(cohen_kappa_score(candidate, legacy), abs=1e-12)

    def test_kappa_of_models_that_always_contradict_each_other_is_no_better_than_chance(self) -> None:
        assert agree(cells(u_c=40), 0.95).kappa == 0.0
        assert agree(cells(u_c=40, u_g=40), 0.95).kappa == -1.0

    @given(counts_of_pairs)
    def test_mcnemar_is_a_binomial_test_of_the_discordant_pairs(self, counts: PairCounts) -> None:
        found = agree(counts, 0.95).mcnemar_p
        only_candidate, only_legacy = int(counts.table[ALARM, NO_ALARM]), int(counts.table[NO_ALARM, ALARM])
        if only_candidate + only_legacy == 0:
            assert found is None
        else:
            expected = binomtest(only_candidate, only_candidate + only_legacy, 0.5).pvalue
            assert found == pytest.approx(expected, rel=1e-9)

    @given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=60))
    def test_score_correlation_is_pearsons_of_the_ranks(self, scores: list[tuple[int, int]]) -> None:
        candidate, legacy = [c for c, _ in scores], [g for _, g in scores]
        found = score_correlation(candidate, legacy)
        if len({*candidate}) < 2 or len({*legacy}) < 2:
            assert found is None
        else:
            ranks = np.corrcoef(rankdata(candidate), rankdata(legacy))[0, 1]
            assert found == pytest.approx(ranks, abs=1e-12)

    def test_score_correlation_sees_order_alone(self) -> None:
        scores = np.random.default_rng(0).normal(size=50)
        assert score_correlation(scores, np.exp(scores)) == pytest.approx(1.0)
        assert score_correlation(scores, -(scores**3)) == pytest.approx(-1.0)


class TestLawsOfCounts:
    @given(counts_of_pairs, counts_of_pairs, counts_of_pairs)
    def test_they_add_in_any_order(self, one: PairCounts, two: PairCounts, three: PairCounts) -> None:
        assert (one + two) + three == one + (two + three)
        assert one + two == two + one
        assert one + PairCounts.empty() == one
        assert (one + two).num_pairs == one.num_pairs + two.num_pairs

    @given(counts_of_pairs, confidences)
    def test_agreement_is_the_same_when_the_models_swap(self, counts: PairCounts, confidence: float) -> None:
        there, back = agree(counts, confidence), agree(swapped(counts), confidence)
        assert (there.num_pairs, there.num_labelled) == (back.num_pairs, back.num_labelled)
        assert str(there.agreement) == str(back.agreement)
        assert there.kappa == pytest.approx(back.kappa)
        assert there.mcnemar_p == pytest.approx(back.mcnemar_p)
        assert there.drift == pytest.approx(tuple(-value for value in np.take(back.drift, [0, 2, 1])), nan_ok=True)
        assert str(there.candidate_misses) == str(back.legacy_misses)
        assert str(there.candidate_false_alarms) == str(back.legacy_false_alarms)

    @given(counts_of_pairs, confidences)
    def test_settling_only_ever_helps(self, counts: PairCounts, confidence: float) -> None:
        found = agree(counts, confidence)
        assert found.settled.num_hits >= found.agreement.num_hits
        assert found.settled.low >= found.agreement.low
        assert found.settled.high >= found.agreement.high

    @given(counts_of_pairs, st.integers(1, 50), st.sampled_from(["n_g", "a_c"]))
    def test_a_candidate_that_a_label_proves_right_is_not_blamed(
        self, counts: PairCounts, number: int, cell: str
    ) -> None:
        """Legacy's false alarm, or its miss: the settled count rises by exactly these pairs."""
        more = counts + cells(**{cell: number})
        assert more.num_settled == counts.num_settled + number
        assert more.num_agreeing == counts.num_agreeing

    @given(counts_of_pairs, st.integers(1, 50), st.sampled_from(["n_c", "a_g", "u_c", "u_g"]))
    def test_a_candidate_that_is_wrong_or_not_proven_right_is(self, counts: PairCounts, number: int, cell: str) -> None:
        more = counts + cells(**{cell: number})
        assert (more.num_settled, more.num_pairs) == (counts.num_settled, counts.num_pairs + number)

    def test_rates_of_each_model_are_read_from_the_right_cells(self) -> None:
        found = agree(cells(n_=10, n_c=20, n_g=30, n_cg=40, a_=1, a_c=2, a_g=3, a_cg=4, u_c=1_000), 0.95)
        assert (found.num_pairs, found.num_labelled) == (1_110, 110)
        assert (found.candidate_false_alarms.num_hits, found.candidate_false_alarms.num_total) == (60, 100)
        assert (found.legacy_false_alarms.num_hits, found.legacy_false_alarms.num_total) == (70, 100)
        assert (found.candidate_misses.num_hits, found.candidate_misses.num_total) == (4, 10)
        assert (found.legacy_misses.num_hits, found.legacy_misses.num_total) == (3, 10)
        assert found.drift[0] == pytest.approx((1_022 - 33) / 1_110)

    def test_only_labelled_defects_that_one_model_alone_finds_are_lost_or_gained(self) -> None:
        counts = cells(u_=10, u_c=20, u_g=30, u_cg=40, n_=50, n_c=60, n_g=70, n_cg=80, a_=1, a_c=3, a_g=9, a_cg=2)
        assert counts.lost_and_gained == (9, 3)
        assert swapped(counts).lost_and_gained == (3, 9)

    @pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 2, 2)])
    def test_cells_of_another_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="need \\(3, 2, 2\\)"):
            PairCounts(np.zeros(shape, dtype=np.int64))

    def test_negative_cells_are_refused(self) -> None:
        with pytest.raises(ValueError, match="without negatives"):
            PairCounts(np.full((3, 2, 2), -1, dtype=np.int64))

    def test_no_pairs_say_nothing(self) -> None:
        found = agree(PairCounts.empty(), 0.95)
        assert (found.num_pairs, found.kappa, found.mcnemar_p) == (0, None, None)
        assert math.isnan(found.agreement.value) and math.isnan(found.drift[0])

    @pytest.mark.parametrize("cell", ["u_", "u_cg", "n_", "a_cg"])
    def test_one_decision_of_both_throughout_has_no_kappa(self, cell: str) -> None:
        found = agree(cells(**{cell: 500}), 0.95)
        assert (found.kappa, found.mcnemar_p, found.agreement.value) == (None, None, 1.0)
