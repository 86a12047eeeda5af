"""The verdict: what is missing is named and waited for; bad candidates never pass, good ones do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from fixtures.evidence_rows import DAY, Part, day_of, evidence_of, part
from fixtures.learning import project_params
from shadowline.core.params import ShadowParams
from shadowline.evaluation.evidence import ABSENT, ALARM, ANOMALOUS, FAILED, NO_ALARM, NORMAL, Evidence, start_of
from shadowline.rollout.guards import GuardResult
from shadowline.rollout.rehearsal import Line, Reviews, SimulatedCandidate, rehearse
from shadowline.rollout.verdict import ShadowVerdict, VerdictOutcome, judge_agreement
from shadowline.rollout.weighing import appraise

SHADOW, ROLLOUT = project_params().shadow, project_params().rollout
NUM_DAYS = 40

FOUND_BY_BOTH = part(ALARM, ALARM, 3, ANOMALOUS)
FALSE_ALARMS = (part(ALARM, NO_ALARM, 1, NORMAL), part(NO_ALARM, ALARM, 1, NORMAL))


def days_of(parts: Sequence[Part], num_days: int = NUM_DAYS, first: int = 0) -> list[Part]:
    return [group for day in range(first, first + num_days) for group in day_of(day, *parts)]


def quiet(count: int, **more: int) -> Part:
    return part(NO_ALARM, NO_ALARM, count, labelled_after=None, **more)


GOOD_DAY = (FOUND_BY_BOTH, *FALSE_ALARMS, quiet(95))


def verdict_on(parts: Sequence[Part], failures: Sequence[str] = (), **shadow: Any) -> ShadowVerdict:
    policy = ShadowParams.model_validate({**SHADOW.model_dump(), **shadow})
    return judge_agreement(evidence_of(parts), failures, policy, ROLLOUT)


def unlabelled(one: Part) -> Part:
    return {name: value for name, value in one.items() if name != "labelled_after"}


# What is missing, its name with the numbers, and the parts of the days.
MISSING: dict[str, tuple[list[Part], str]] = {
    "pairs": (days_of([part(ALARM, ALARM, 1, ANOMALOUS), quiet(3)]), "160 pairs, need 200"),
    "days": (days_of(GOOD_DAY, 27), "27 production days with 10 images, need 28"),
    "alarms of the candidate": (
        days_of([part(NO_ALARM, ALARM, 1, NORMAL), quiet(99)]),
        "0 alarms of the candidate, need 10",
    ),
    "alarms of the legacy model": (
        days_of([part(ALARM, NO_ALARM, 1, ANOMALOUS), quiet(99)]),
        "0 alarms of the legacy model, need 10",
    ),
    "labelled alarms": (
        days_of([unlabelled(FOUND_BY_BOTH), quiet(97)]),
        "0 labelled alarms of the legacy model, need 10",
    ),
    "labels of disagreements": (
        [
            *days_of(GOOD_DAY[:1] + GOOD_DAY[3:]),
            *day_of(3, part(ALARM, NO_ALARM, 12, NORMAL), unlabelled(part(ALARM, NO_ALARM, 28))),
        ],
        "12 of 40 disagreements labelled, need 36",
    ),
    "labels of drawn parts": (
        [*days_of(GOOD_DAY), *day_of(3, part(NO_ALARM, NO_ALARM, 3, NORMAL, drawn=1), quiet(17, drawn=1))],
        "3 of 20 parts drawn for review labelled, need 18",
    ),
    "agreement": (
        days_of([FOUND_BY_BOTH, part(ALARM, NO_ALARM, 5, NORMAL), quiet(92)]),
        r"settled agreement of 4000 pairs lies in \[93\.\d%, 96\.\d%\], not proven above 95.0%",
    ),
    "hits": (
        days_of([*GOOD_DAY, part(NO_ALARM, ALARM, 1, ANOMALOUS)]),
        "of 160 known defects 40 are found by the legacy model alone and 0 by the candidate alone: "
        "not proven that it loses at most 10%",
    ),
    "defects": (
        days_of([part(ALARM, ALARM, 3, NORMAL), quiet(97)]),
        "of 0 known defects 0 are found by the legacy model alone and 0 by the candidate alone",
    ),
}


class TestWhatIsMissing:
    @pytest.mark.parametrize("name", MISSING)
    def test_it_is_named_with_its_numbers(self, name: str) -> None:
        parts, expected = MISSING[name]
        found = verdict_on(parts)
        assert found.outcome is VerdictOutcome.INCONCLUSIVE
        assert any(re.match(expected, reason) for reason in found.reasons), found.reasons

    @pytest.mark.parametrize("name", ["days", "labels of disagreements", "labels of drawn parts", "agreement", "hits"])
    def test_what_is_not_missing_is_not_named(self, name: str) -> None:
        assert len(verdict_on(MISSING[name][0]).reasons) == 1

    def test_before_the_end_of_the_first_day_nothing_is_known(self) -> None:
        for evidence in (evidence_of([]), evidence_of(day_of(0, *GOOD_DAY), closed_until=DAY - 1)):
            found = judge_agreement(evidence, (), SHADOW, ROLLOUT)
            assert (found.outcome, found.reasons) == (VerdictOutcome.INCONCLUSIVE, ("no production day has ended yet",))

    @pytest.mark.parametrize("num_days", [28, 200, 1_000])
    def test_it_waits_for_ever(self, num_days: int) -> None:
        parts = days_of([unlabelled(group) for group in GOOD_DAY], num_days)
        assert verdict_on(parts).outcome is VerdictOutcome.INCONCLUSIVE

    def test_silence_brings_it_no_further(self) -> None:
        parts = days_of(GOOD_DAY, 27)
        for years in (0, 1, 10):
            evidence = evidence_of(parts, closed_until=(40 + 365 * years) * DAY)
            assert judge_agreement(evidence, (), SHADOW, ROLLOUT).outcome is VerdictOutcome.INCONCLUSIVE

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([NO_ALARM, ALARM, FAILED]),
                st.sampled_from([NO_ALARM, ALARM, ABSENT]),
                st.integers(0, 2_000),
                st.booleans(),
            ),
            max_size=12,
        )
    )
    @settings(max_examples=examples(40), deadline=None)
    def test_it_never_passes_on_evidence_without_labels(self, drawn: list[tuple[int, int, int, bool]]) -> None:
        kinds = [unlabelled(part(*both, count, drawn=is_drawn)) for *both, count, is_drawn in drawn]
        assert verdict_on(days_of(kinds, 30)).outcome is VerdictOutcome.INCONCLUSIVE

    def test_parts_that_somebody_put_on_the_line_are_no_evidence(self) -> None:
        parts = days_of([{**group, "reference": 1} for group in GOOD_DAY])
        assert verdict_on([*parts, *days_of([quiet(100)])]).outcome is VerdictOutcome.INCONCLUSIVE
        assert verdict_on(parts).reasons == ("no production day has ended yet",)

    def test_parts_that_the_legacy_model_did_not_judge_are_no_evidence(self) -> None:
        parts = days_of([{**group, "legacy": ABSENT} for group in GOOD_DAY])
        assert "0 pairs, need 200" in verdict_on(parts).reasons


class TestItPasses:
    def test_where_nothing_is_missing(self) -> None:
        found = verdict_on(days_of(GOOD_DAY))
        assert found.outcome is VerdictOutcome.PASS
        assert "nothing was missing on" in found.reasons[0]

    def test_labels_of_the_newest_days_may_be_missing(self) -> None:
        open_days = [unlabelled(part(ALARM, NO_ALARM, 4)), quiet(96)]
        for num_open, expected in ((SHADOW.review_days, True), (ROLLOUT.window_days + SHADOW.review_days, False)):
            parts = days_of(GOOD_DAY[:1] + GOOD_DAY[3:]) + days_of(open_days, num_open, NUM_DAYS)
            assert (verdict_on(parts).outcome is VerdictOutcome.PASS) == expected

    def test_without_days_for_review_every_label_must_be_there(self) -> None:
        parts = days_of(GOOD_DAY[:1] + GOOD_DAY[3:], 28) + days_of(
            [unlabelled(part(ALARM, NO_ALARM, 4)), quiet(96)], 1, 28
        )
        assert verdict_on(parts, review_days=0, min_days=29).outcome is VerdictOutcome.INCONCLUSIVE
        assert verdict_on(parts, min_days=29).outcome is VerdictOutcome.PASS

    def test_it_stays_valid_for_some_production_days_however_long_they_take(self) -> None:
        """Then the unlabelled disagreements of the days after it are due."""
        spoiled = [unlabelled(part(ALARM, NO_ALARM, 400)), quiet(10)]
        for later in range(ROLLOUT.window_days + 2):
            parts = days_of(GOOD_DAY) + days_of(spoiled, later, 10 * NUM_DAYS)
            assert (verdict_on(parts).outcome is VerdictOutcome.PASS) == (later < ROLLOUT.window_days)

    def test_a_guard_that_tripped_outweighs_it(self) -> None:
        found = verdict_on(days_of(GOOD_DAY), ["errors: 5 %"])
        assert (found.outcome, found.reasons) == (VerdictOutcome.FAIL, ("errors: 5 %",))

    @given(st.integers(0, (NUM_DAYS + 2) * DAY))
    @settings(max_examples=examples(25), deadline=None)
    def test_within_a_day_it_does_not_change(self, slot: int) -> None:
        """It is that of the end of the newest day that has ended."""
        whole = evidence_of(days_of(GOOD_DAY))
        ends = [day.end for day in whole.days if day.end <= slot]
        at_slot, at_end = (
            judge_agreement(Evidence(whole.known_at(at), at), (), SHADOW, ROLLOUT)
            for at in (slot, max(ends, default=0))
        )
        assert at_slot.outcome is at_end.outcome
        if at_slot.outcome is VerdictOutcome.INCONCLUSIVE:
            assert at_slot.reasons == at_end.reasons

    @pytest.mark.parametrize(("min_agreement", "parts", "expected"), [
        (1.0, [FOUND_BY_BOTH, quiet(97)], True),
        (1.0, GOOD_DAY, False),
        (0.0, [FOUND_BY_BOTH, part(ALARM, NO_ALARM, 90, NORMAL), quiet(7)], True),
    ])  # fmt: skip
    def test_bounds_of_0_and_1(self, min_agreement: float, parts: Sequence[Part], expected: bool) -> None:
        assert (verdict_on(days_of(parts), min_agreement=min_agreement).outcome is VerdictOutcome.PASS) == expected

    @pytest.mark.parametrize("worse_in", ["agreement", "hits"])
    def test_one_at_the_bound_passes_rarely_at_any_time(self, worse_in: str) -> None:
        """At most 1 − confidence of the runs, with three standard errors; looked at on six of the days."""
        rng, runs, passed = np.random.default_rng(11), 40, 0
        newest_day = ROLLOUT.model_copy(update={"window_days": 1})
        for _ in range(runs):
            parts: list[Part] = []
            for day in range(62):
                if worse_in == "agreement":
                    wrong = int(rng.binomial(100, 1 - SHADOW.min_agreement))
                    kinds = [FOUND_BY_BOTH, part(ALARM, NO_ALARM, wrong, NORMAL), quiet(97 - wrong)]
                else:
                    lost = int(rng.binomial(4, SHADOW.max_lost_share))
                    kinds = [part(ALARM, ALARM, 4 - lost, ANOMALOUS), part(NO_ALARM, ALARM, lost, ANOMALOUS), quiet(96)]
                parts += day_of(day, *(kind for kind in kinds if kind["count"]))
            whole = evidence_of(parts)
            looks = [whole.days[day].end for day in (27, 30, 35, 42, 50, 61)]
            verdicts = [judge_agreement(Evidence(whole.known_at(end), end), (), SHADOW, newest_day) for end in looks]
            passed += any(found.outcome is VerdictOutcome.PASS for found in verdicts)
        assert passed / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


# --- standing cases -----------------------------------------------------------------------------------------------

LINE = Line()
LEGACY_RATE = LINE.defect_rate * (1 - LINE.legacy_missed) + (1 - LINE.defect_rate) * LINE.legacy_false_alarms
LABELS = {
    "all": Reviews(),
    "disagreements": Reviews(alarms=0.0, answered=0.0),
    "none": Reviews(disagreements=0.0, alarms=0.0, answered=0.0),
}


@dataclass(frozen=True)
class Case:
    candidate: SimulatedCandidate
    stopped_by: frozenset[str]  # guards, one of which trips where the disagreements are labelled
    num_days: int = 60
    always_stopped: bool = False  # also without labels


BAD = {
    "never alarms": Case(SimulatedCandidate(missed=1.0, false_alarms=0.0), frozenset({"lost_defects"})),
    "always alarms": Case(SimulatedCandidate(missed=0.0, false_alarms=1.0), frozenset({"false_alarms", "agreement"})),
    "copies the legacy model with a delay": Case(SimulatedCandidate(delayed=True), frozenset({"lost_defects"})),
    "alarms at random as often as the legacy model": Case(
        SimulatedCandidate(missed=1 - LEGACY_RATE, false_alarms=LEGACY_RATE), frozenset({"lost_defects"})
    ),
    "blind to one kind of defect": Case(SimulatedCandidate(kind_missed=0.3), frozenset({"lost_defects"})),
    "blind after day 40": Case(SimulatedCandidate(missed=1.0, from_day=40), frozenset({"lost_defects"}), 70),
    "worse each week": Case(SimulatedCandidate(worse_each_week=0.05), frozenset({"lost_defects"}), 90),
    "slower each week": Case(SimulatedCandidate(slower_each_week=0.02), frozenset({"latency"}), always_stopped=True),
    "fails on 5 %": Case(SimulatedCandidate(failed=0.05), frozenset({"errors"}), always_stopped=True),
}
GOOD = {
    "equal": (LINE, SimulatedCandidate()),
    "equal on a line of five days a week": (replace(LINE, week_days=5), SimulatedCandidate()),
    "equal in a night shift": (replace(LINE, shift_slots=20), SimulatedCandidate()),
    "better": (replace(LINE, legacy_missed=0.15, legacy_false_alarms=0.03), SimulatedCandidate(missed=0.01)),
    "better with fewer alarms": (replace(LINE, legacy_false_alarms=0.03), SimulatedCandidate(false_alarms=0.001)),
    "failing once in a thousand": (LINE, SimulatedCandidate(failed=0.001)),
}


def appraised(
    line: Line, candidate: SimulatedCandidate, reviews: Reviews, num_days: int, seed: int
) -> tuple[tuple[GuardResult, ...], ShadowVerdict]:
    table = rehearse(line, candidate, reviews, num_days, seed)
    return appraise(Evidence(table, int(table.slot.max()) + DAY + 1), SHADOW, ROLLOUT, SHADOW.min_agreement)


class TestStandingCases:
    @pytest.mark.parametrize("labels", LABELS)
    @pytest.mark.parametrize("name", BAD)
    def test_a_bad_candidate_is_stopped_or_waits_and_never_passes(self, name: str, labels: str) -> None:
        """A soft guard bars the way of a candidate whose verdict is good; so does any hard one, which fails it."""
        case = BAD[name]
        for seed in (1, 2):
            guards, verdict = appraised(LINE, case.candidate, LABELS[labels], case.num_days, seed)
            active = {guard.name for guard in guards if guard.active}
            assert verdict.outcome is not VerdictOutcome.PASS or active
            if labels != "none" or case.always_stopped:
                assert active & case.stopped_by
            else:
                assert verdict.outcome is VerdictOutcome.INCONCLUSIVE and not active

    @pytest.mark.parametrize("name", GOOD)
    def test_a_good_one_passes_and_nothing_bars_its_way(self, name: str) -> None:
        """Sooner or later, as the defects fall; a look a week sees every day."""
        line, candidate = GOOD[name]
        for seed in (1, 2):
            table = rehearse(line, candidate, LABELS["all"], 100, seed)
            whole = Evidence(table, int(table.slot.max()) + DAY + 1)
            ends = [day.end for day in whole.days[SHADOW.min_days :: ROLLOUT.window_days]]
            looks = (judge_agreement(Evidence(whole.known_at(end), end), (), SHADOW, ROLLOUT) for end in ends)
            assert any(verdict.outcome is VerdictOutcome.PASS for verdict in looks)
            guards, verdict = appraise(whole, SHADOW, ROLLOUT, SHADOW.min_agreement)
            assert verdict.outcome is not VerdictOutcome.FAIL and not any(guard.active for guard in guards)

    @pytest.mark.parametrize("name", GOOD)
    @pytest.mark.parametrize("labels", ["disagreements", "none"])
    def test_a_good_one_waits_for_its_labels(self, name: str, labels: str) -> None:
        line, candidate = GOOD[name]
        guards, verdict = appraised(line, candidate, LABELS[labels], 60, seed=1)
        assert verdict.outcome is VerdictOutcome.INCONCLUSIVE
        assert not any(guard.active for guard in guards)
        assert any("drawn for review labelled, need" in reason for reason in verdict.reasons)

    def test_one_that_went_blind_passed_only_while_it_saw(self) -> None:
        table = rehearse(LINE, BAD["blind after day 40"].candidate, LABELS["all"], 70, seed=1)
        whole = Evidence(table, int(table.slot.max()) + DAY + 1)
        blind_since = start_of(whole.days[40].first)
        guards, _ = appraise(whole, SHADOW, ROLLOUT, SHADOW.min_agreement)
        crossed = min(guard.crossed_at[0] for guard in guards if guard.hard and guard.crossed_at)
        assert blind_since < crossed < start_of(whole.days[52].first)
        end = whole.days[39].end
        then = Evidence(whole.known_at(end), end)
        assert appraise(then, SHADOW, ROLLOUT, SHADOW.min_agreement)[1].outcome is VerdictOutcome.PASS
