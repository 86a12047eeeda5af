"""Rates over all parts from those that were drawn for review: unbiased, with intervals that hold what they promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.evidence_rows import Part, day_of, evidence_of, part
from shadowline.evaluation.evidence import ABSENT, ALARM, ANOMALOUS, NO_ALARM, NORMAL, EvidenceTable, count_cells
from shadowline.evaluation.review_rates import ErrorRates, ReviewRates, estimate_rates
from shadowline.rollout.rehearsal import Line, Reviews, SimulatedCandidate, rehearse

ALL_LABELS = Reviews(disagreements=1.0, alarms=1.0, review_share=1.0)
NAMES = tuple(field.name for field in fields(ErrorRates))


def joined(tables: Sequence[EvidenceTable]) -> EvidenceTable:
    names = [field.name for field in fields(EvidenceTable)]
    return EvidenceTable(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in names})


@dataclass(frozen=True)
class Period:
    """So many days of a line, and how they are reviewed."""

    line: Line
    candidate: SimulatedCandidate
    reviews: Reviews
    num_days: int = 30

    def rehearse(self, reviews: Reviews, seed: int) -> EvidenceTable:
        return rehearse(self.line, self.candidate, reviews, self.num_days, seed)


def true_rates(table: EvidenceTable) -> dict[str, float]:
    """Of a table in which every part is labelled."""
    cells = count_cells(table)
    found = {}
    for model, axis in (("candidate", 0), ("legacy", 1)):
        missed, hit = (cells[ANOMALOUS].take(said, axis=axis).sum() for said in (NO_ALARM, ALARM))
        passed, false_alarms = (cells[NORMAL].take(said, axis=axis).sum() for said in (NO_ALARM, ALARM))
        found[f"{model}.missed_parts"] = missed / cells.sum()
        found[f"{model}.missed_defects"] = missed / (missed + hit)
        found[f"{model}.false_alarms"] = false_alarms / (passed + false_alarms)
    return found


def by_name(rates: ReviewRates) -> dict[str, tuple[float, float, float]]:
    return {
        f"{model}.{name}": (rate.value, rate.low, rate.high)
        for model in ("candidate", "legacy")
        for name in NAMES
        for rate in [getattr(getattr(rates, model), name)]
    }


LINE = Line(parts_per_day=200, defect_rate=0.10, legacy_missed=0.15, legacy_false_alarms=0.05)
SCENARIOS: dict[str, tuple[Period, ...]] = {
    "one review share": (Period(LINE, SimulatedCandidate(0.2, 0.03), Reviews(review_share=0.1)),),
    "half of the labels come": (
        Period(LINE, SimulatedCandidate(0.2, 0.03), Reviews(0.6, alarms=0.0, review_share=0.2, answered=0.5)),
    ),
    "both miss the same defects": (Period(LINE, SimulatedCandidate(0.2, 0.03, shared=0.9), Reviews(review_share=0.1)),),
    "the share falls as the candidate goes blind": (
        Period(LINE, SimulatedCandidate(0.05, 0.03, shared=0.5), Reviews(review_share=0.3)),
        Period(LINE, SimulatedCandidate(0.5, 0.03, shared=0.5), Reviews(review_share=0.06)),
    ),
    "inspectors label most alarms of their own accord": (
        Period(LINE, SimulatedCandidate(0.2, 0.03), Reviews(review_share=0.1, alarms=0.9)),
    ),
}
RUNS, CONFIDENCE = 120, 0.95


class TestBySimulation:
    @pytest.mark.parametrize("name", SCENARIOS)
    def test_it_is_unbiased_and_its_intervals_hold_the_truth(self, name: str) -> None:
        """Mean error within 3 standard errors; coverage at least the confidence less 3 of its own, and 0.02 besides."""
        errors: dict[str, list[float]] = {}
        covered: dict[str, list[bool]] = {}
        for seed in range(RUNS):
            periods = [(period, 1_000 * number + seed) for number, period in enumerate(SCENARIOS[name])]
            seen = joined([period.rehearse(period.reviews, number) for period, number in periods])
            truth = true_rates(joined([period.rehearse(ALL_LABELS, number) for period, number in periods]))
            for rate, (value, low, high) in by_name(estimate_rates(seen, CONFIDENCE)).items():
                errors.setdefault(rate, []).append(value - truth[rate])
                covered.setdefault(rate, []).append(low - 1e-9 <= truth[rate] <= high + 1e-9)
        least = CONFIDENCE - 0.02 - 3 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / RUNS)
        for rate, several in errors.items():
            standard_error = np.std(several, ddof=1) / math.sqrt(RUNS)
            assert abs(np.mean(several)) <= 3 * standard_error + 1e-12, rate
            assert np.mean(covered[rate]) >= least, rate

    def test_without_weights_a_share_that_changed_would_deceive(self) -> None:
        """The periods of the fourth scenario: of the drawn parts far fewer are missed than of all."""
        periods = SCENARIOS["the share falls as the candidate goes blind"]
        truth = true_rates(joined([period.rehearse(ALL_LABELS, 7) for period in periods]))
        seen = joined([period.rehearse(period.reviews, 7) for period in periods])
        naive = true_rates(seen.where(seen.drawn))
        assert naive["candidate.missed_defects"] < 0.75 * truth["candidate.missed_defects"]
        assert estimate_rates(seen, 0.95).candidate.missed_defects.value > 0.8 * truth["candidate.missed_defects"]


MIXED = [
    part(ALARM, ALARM, 5, ANOMALOUS, drawn=1), part(ALARM, ALARM, 2, NORMAL, drawn=1),
    part(ALARM, NO_ALARM, 4, ANOMALOUS), part(ALARM, NO_ALARM, 6, NORMAL),
    part(NO_ALARM, ALARM, 3, ANOMALOUS), part(NO_ALARM, ALARM, 7, NORMAL),
    part(NO_ALARM, NO_ALARM, 1, ANOMALOUS, drawn=1), part(NO_ALARM, NO_ALARM, 90, NORMAL, drawn=1),
]  # fmt: skip


def table_of(parts: Sequence[Part], review_share: float = 1.0) -> EvidenceTable:
    table = evidence_of(day_of(0, *parts)).table
    return EvidenceTable.of(
        {
            **{field.name: getattr(table, field.name) for field in fields(table)},
            "review_share": [review_share] * len(table),
        }
    )


class TestLaws:
    def test_with_every_part_labelled_it_is_a_count(self) -> None:
        rates = estimate_rates(table_of(MIXED), 0.95)
        assert rates.num_parts == 118
        expected = true_rates(table_of(MIXED))
        for name, (value, low, high) in by_name(rates).items():
            assert (value, low, high) == pytest.approx((expected[name],) * 3, abs=1e-9)
        assert expected["candidate.missed_defects"] == pytest.approx(4 / 13)
        assert expected["legacy.false_alarms"] == pytest.approx(9 / 105)

    def test_by_hand(self) -> None:
        """A tenth is drawn: 2 of 20 drawn parts without an alarm stand for a tenth of the 200."""
        quiet = [
            part(NO_ALARM, NO_ALARM, 2, ANOMALOUS, drawn=1),
            part(NO_ALARM, NO_ALARM, 18, NORMAL, drawn=1),
            part(NO_ALARM, NO_ALARM, 180, labelled_after=None),
        ]
        disagreeing = [part(NO_ALARM, ALARM, 5, ANOMALOUS), part(NO_ALARM, ALARM, 5, NORMAL)]
        rates = estimate_rates(table_of([*quiet, *disagreeing], 0.1), 0.95)
        assert rates.candidate.missed_parts.value == pytest.approx((20 + 5) / 210)
        assert rates.candidate.missed_defects.value == pytest.approx(1.0)
        assert rates.legacy.missed_defects.value == pytest.approx(20 / 25)
        assert rates.legacy.false_alarms.value == pytest.approx(5 / 185)
        assert rates.candidate.missed_parts.num_labelled == 30
        assert str(rates.legacy.missed_defects).startswith("80.0% [")

    @given(
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.integers(0, 30)), max_size=12)
    )
    @settings(deadline=None)
    def test_intervals_hold_their_value_and_models_that_swap_swap_their_rates(
        self, drawn: list[tuple[int, int, int, int]]
    ) -> None:
        parts = [
            part(c, g, count, max(label, 1), 4 if label else None, drawn=1) for label, c, g, count in drawn if count
        ]
        swapped = [{**group, "candidate": group["legacy"], "legacy": group["candidate"]} for group in parts]
        there, back = (estimate_rates(table_of(every, 0.25), 0.9) for every in (parts, swapped))
        for name, (value, low, high) in by_name(there).items():
            assert 0.0 <= low <= high <= 1.0
            assert math.isnan(value) or low <= value <= high
            other = name.replace("candidate", "x").replace("legacy", "candidate").replace("x", "legacy")
            assert by_name(back)[other] == pytest.approx((value, low, high), nan_ok=True, abs=1e-9)

    @pytest.mark.parametrize("confidence", [0.8, 0.9, 0.99])
    def test_more_labels_and_less_confidence_make_it_narrower(self, confidence: float) -> None:
        def width(times: int, confidence: float) -> float:
            parts = [
                *({**group, "count": times * group["count"]} for group in MIXED),
                part(NO_ALARM, NO_ALARM, 2_000, labelled_after=None),
            ]
            rate = estimate_rates(table_of(parts, 0.05), confidence).candidate.missed_defects
            return rate.high - rate.low

        assert width(1, confidence) > width(4, confidence)
        assert width(1, confidence) > width(1, confidence - 0.05)

    def test_where_nothing_was_drawn_nothing_is_measured(self) -> None:
        parts = [*MIXED[2:6], part(NO_ALARM, NO_ALARM, 90, NORMAL), part(ALARM, ALARM, 3, ANOMALOUS)]
        rates = estimate_rates(table_of(parts), 0.95)
        for model in (rates.candidate, rates.legacy):
            assert [str(getattr(model, name)) for name in NAMES] == ["not measured"] * 3
            assert (model.missed_defects.low, model.missed_defects.high) == (0.0, 1.0)
            assert not model.missed_defects.is_measured

    def test_drawn_parts_without_a_label_measure_nothing(self) -> None:
        parts = [{name: value for name, value in group.items() if name != "labelled_after"} for group in MIXED]
        assert not estimate_rates(table_of(parts), 0.95).candidate.missed_parts.is_measured

    def test_what_is_missed_is_measured_without_a_part_that_both_flagged(self) -> None:
        parts = [part(ALARM, ALARM, 50, labelled_after=None), *MIXED[2:]]
        rates = estimate_rates(table_of(parts), 0.95).candidate
        assert (rates.missed_parts.is_measured, rates.missed_defects.is_measured) == (True, False)

    def test_labels_that_nobody_drew_are_no_sample_of_what_both_let_pass(self) -> None:
        biased = [*MIXED, part(NO_ALARM, NO_ALARM, 30, ANOMALOUS)]
        honest = [*MIXED, part(NO_ALARM, NO_ALARM, 30, labelled_after=None)]
        assert by_name(estimate_rates(table_of(biased), 0.95)) == by_name(estimate_rates(table_of(honest), 0.95))

    def test_only_parts_of_the_production_that_both_judged_count(self) -> None:
        more = [part(NO_ALARM, ABSENT, 9, ANOMALOUS, drawn=1), part(NO_ALARM, ALARM, 9, ANOMALOUS, reference=1)]
        assert estimate_rates(table_of([*MIXED, *more]), 0.95) == estimate_rates(table_of(MIXED), 0.95)

    def test_of_no_parts_nothing_is_measured(self) -> None:
        rates = estimate_rates(EvidenceTable.empty(), 0.95)
        assert rates.num_parts == 0 and not rates.candidate.missed_parts.is_measured

    def test_a_part_drawn_with_the_probability_0_is_refused(self) -> None:
        with pytest.raises(ValueError, match="drawn for review with the probability 0"):
            estimate_rates(table_of(MIXED, 0.0), 0.95)
