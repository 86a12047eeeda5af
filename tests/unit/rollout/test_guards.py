"""Guards: each fires alone from real rows of evidence, none below its bound, none because a label is late."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from fixtures.evidence_rows import DAY, Part, day_of, evidence_of, part
from fixtures.learning import project_params
from shadowline.core.params import Params, RolloutParams
from shadowline.evaluation.evidence import (
    ABSENT,
    ALARM,
    ANOMALOUS,
    DROPPED,
    FAILED,
    NO_ALARM,
    NORMAL,
    Evidence,
    EvidenceTable,
    start_of,
)
from shadowline.rollout.guards import GuardResult, check_guards

A_DAY = 400  # parts
POLICY = project_params().rollout
HARD = {"agreement", "lost_defects", "false_alarms", "misses", "errors", "drift"}
SOFT = {"alarm_rate", "latency", "dropped"}


def check(evidence: Evidence, policy: RolloutParams = POLICY, least_agreement: float = 0.9) -> dict[str, GuardResult]:
    return {guard.name: guard for guard in check_guards(evidence, policy, least_agreement)}


def tripped(evidence: Evidence, policy: RolloutParams = POLICY) -> set[str]:
    return {name for name, guard in check(evidence, policy).items() if guard.active}


def good_day(number: int, *others: Part) -> list[Part]:
    """Both models find the defects and alarm falsely now and then; `others` take the place of good parts."""
    rest = A_DAY - 12 - sum(other["count"] for other in others)
    same = [
        part(ALARM, ALARM, 8, ANOMALOUS),
        part(ALARM, ALARM, 4),
        part(NO_ALARM, NO_ALARM, rest, labelled_after=None),
    ]
    return day_of(number, *same, *others)


# Each guard: parts of a day that break its bound and no other one, and parts that keep it.
BROKEN: dict[str, tuple[Part, ...]] = {
    "agreement": (
        part(ALARM, NO_ALARM, 30, NORMAL), part(NO_ALARM, ALARM, 30, ANOMALOUS), part(ALARM, NO_ALARM, 32, ANOMALOUS),
    ),
    "lost_defects": (part(NO_ALARM, ALARM, 6, ANOMALOUS),),
    "false_alarms": (part(ALARM, ALARM, 60, NORMAL),),
    "misses": (part(NO_ALARM, NO_ALARM, 4, ANOMALOUS, drawn=1),),
    "errors": (part(FAILED, NO_ALARM, 12, labelled_after=None),),
    "latency": (part(NO_ALARM, NO_ALARM, 40, labelled_after=None, slow=1),),
    "dropped": (part(DROPPED, NO_ALARM, 40, labelled_after=None),),
}  # fmt: skip
KEPT: dict[str, tuple[Part, ...]] = {
    "agreement": (
        part(ALARM, NO_ALARM, 15, NORMAL), part(NO_ALARM, ALARM, 15, ANOMALOUS), part(ALARM, NO_ALARM, 17, ANOMALOUS),
    ),
    "lost_defects": (part(NO_ALARM, ALARM, 6, ANOMALOUS), part(ALARM, NO_ALARM, 6, ANOMALOUS)),
    "false_alarms": (part(ALARM, ALARM, 30, NORMAL),),
    "misses": (part(NO_ALARM, NO_ALARM, 1, ANOMALOUS, drawn=1), part(ALARM, ALARM, 9, ANOMALOUS, drawn=1)),
    "errors": (part(FAILED, NO_ALARM, 3, labelled_after=None),),
    "latency": (part(NO_ALARM, NO_ALARM, 18, labelled_after=None, slow=1),),
    "dropped": (part(DROPPED, NO_ALARM, 18, labelled_after=None),),
}  # fmt: skip


class TestEachGuardAlone:
    @pytest.mark.parametrize("name", BROKEN)
    def test_it_trips_and_no_other_does(self, name: str) -> None:
        parts = [group for day in range(12) for group in good_day(day, *BROKEN[name])]
        assert tripped(evidence_of(parts)) == {name}
        guard = check(evidence_of(parts))[name]
        assert guard.hard == (name in HARD)
        assert f"{name}: " in guard.reason and "; bound " in guard.reason and ", proven on 19" in guard.reason

    @pytest.mark.parametrize("name", KEPT)
    def test_it_does_not_trip_below_its_bound(self, name: str) -> None:
        parts = [group for day in range(40) for group in good_day(day, *KEPT[name])]
        assert tripped(evidence_of(parts)) == set()

    @pytest.mark.parametrize("name", BROKEN)
    def test_it_trips_after_forty_good_days(self, name: str) -> None:
        parts = [group for day in range(40) for group in good_day(day)]
        parts += [group for day in range(40, 55) for group in good_day(day, *BROKEN[name])]
        guard = check(evidence_of(parts))[name]
        assert guard.active and guard.crossed_at[0] > start_of(40 * DAY)
        if guard.hard and name not in {"lost_defects", "misses"}:  # of these the good days know nothing
            (share, bound) = re.findall(r"([\d.]+)%", guard.reason)
            assert float(share) > float(bound) and f"since {start_of(40 * DAY):%Y-%m-%d}; bound" in guard.reason

    def test_a_good_candidate_trips_none(self) -> None:
        parts = [group for day in range(60) for group in good_day(day)]
        assert tripped(evidence_of(parts, answering_since=30 * DAY)) == set()

    def test_no_images_trip_none(self) -> None:
        results = check_guards(Evidence(EvidenceTable.empty(), 100, 50), POLICY, 0.9)
        assert not any(guard.active or guard.crossed_at for guard in results)
        assert all("nothing measured" in guard.reason for guard in results)

    def test_hard_guards_come_first(self) -> None:
        results = check_guards(evidence_of(good_day(0)), POLICY, 0.9)
        assert [guard.hard for guard in results] == sorted((guard.hard for guard in results), reverse=True)

    @pytest.mark.parametrize("name", ["agreement", "lost_defects", "false_alarms"])
    def test_reference_parts_are_not_of_the_production(self, name: str) -> None:
        test_parts = [{**group, "reference": 1} for group in BROKEN[name]]
        parts = [group for day in range(12) for group in good_day(day, *test_parts)]
        assert name not in tripped(evidence_of(parts))

    def test_parts_of_known_label_that_are_missed_do_count(self) -> None:
        parts = [
            group
            for day in range(12)
            for group in good_day(day, part(NO_ALARM, NO_ALARM, 4, ANOMALOUS, 0, reference=1))
        ]
        assert tripped(evidence_of(parts)) == {"misses"}

    def test_defects_that_an_alarm_brought_to_light_are_no_sample(self) -> None:
        """Of missed parts that nobody drew, nothing follows for the share that is missed."""
        parts = [group for day in range(12) for group in good_day(day, part(NO_ALARM, NO_ALARM, 4, ANOMALOUS))]
        assert tripped(evidence_of(parts)) == set()

    @pytest.mark.parametrize("least_agreement", [0.95, 0.9, 0.5])
    def test_the_bound_of_agreement_is_that_of_the_phase(self, least_agreement: float) -> None:
        wrong = part(ALARM, NO_ALARM, 30, NORMAL)  # 7.5 %
        parts = [group for day in range(20) for group in good_day(day, wrong)]
        assert check(evidence_of(parts), POLICY, least_agreement)["agreement"].active == (least_agreement == 0.95)


class TestWhenItTrips:
    def test_it_is_the_end_of_the_slot_in_which_the_bound_was_crossed(self) -> None:
        parts = day_of(0, part(FAILED, NO_ALARM, 100, labelled_after=None))
        assert check(evidence_of(parts))["errors"].crossed_at == (start_of(1),)

    @given(st.integers(0, 30 * DAY))
    @settings(max_examples=examples(30), deadline=None)
    def test_it_does_not_depend_on_who_looks_when(self, slot: int) -> None:
        """What had been crossed before a slot is what one saw who looked then."""
        parts = [group for day in range(5) for group in good_day(day)]
        parts += [group for day in range(5, 30) for group in good_day(day, *BROKEN["errors"], *BROKEN["lost_defects"])]
        whole = evidence_of(parts)
        then = check(Evidence(whole.known_at(slot), slot, whole.answering_since))
        for name, guard in check(whole).items():
            assert tuple(at for at in guard.crossed_at if at <= start_of(slot)) == then[name].crossed_at

    def test_a_hard_guard_stays_tripped(self) -> None:
        parts = [group for day in range(2) for group in good_day(day, *BROKEN["errors"])]
        parts += [group for day in range(2, 200) for group in good_day(day)]
        assert check(evidence_of(parts))["errors"].active

    def test_a_soft_guard_bars_the_way_for_some_production_days(self) -> None:
        bad = [group for day in range(3) for group in good_day(day, part(NO_ALARM, NO_ALARM, 300, slow=1))]
        for later in range(POLICY.window_days + 2):
            parts = bad + [group for day in range(later) for group in good_day(100 + day)]
            guard = check(evidence_of(parts))["latency"]
            assert guard.crossed_at and guard.active == (later < POLICY.window_days)

    def test_silence_does_not_let_it_expire(self) -> None:
        bad = [group for day in range(3) for group in good_day(day, part(NO_ALARM, NO_ALARM, 300, slow=1))]
        assert check(evidence_of(bad, closed_until=300 * DAY))["latency"].active

    def test_a_soft_guard_that_goes_on_being_crossed_does_not_expire(self) -> None:
        parts = [group for day in range(60) for group in good_day(day, *BROKEN["latency"])]
        guard = check(evidence_of(parts))["latency"]
        assert guard.active and len(guard.crossed_at) > 3

    @pytest.mark.parametrize("name", sorted(SOFT - {"alarm_rate"}))
    def test_severity_is_the_policys(self, name: str) -> None:
        raw = POLICY.model_dump()
        raw["guards"][name]["severity"] = "hard"
        parts = [group for day in range(12) for group in good_day(day, *BROKEN[name])]
        assert check(evidence_of(parts), RolloutParams.model_validate(raw))[name].hard


kinds = st.tuples(
    st.sampled_from([NO_ALARM, ALARM, FAILED, DROPPED]),
    st.sampled_from([NO_ALARM, ALARM, ABSENT]),
    st.sampled_from([NORMAL, ANOMALOUS]),
    st.booleans(),  # drawn
    st.booleans(),  # reference
    st.integers(0, 4),  # day
    st.integers(1, 60),  # number
    st.integers(0, 200),  # slots to its label
    st.one_of(st.none(), st.integers(0, 200)),  # slots more; never
)


class TestLateLabels:
    @given(st.lists(kinds, min_size=1, max_size=25))
    @settings(max_examples=examples(150), deadline=None)
    def test_they_never_trip_a_guard(self, drawn: list[tuple[Any, ...]]) -> None:
        """Whatever labels are late or missing: no guard trips that would not have tripped by then with all of them."""
        prompt, late = [], []
        for candidate, legacy, truth, is_drawn, reference, day, count, after, more in drawn:
            one = {
                **part(candidate, legacy, count, truth, after, drawn=is_drawn, reference=reference),
                "received": day * DAY,
            }
            prompt.append({**one, "labelled_after": 0})
            late.append({**one, "labelled_after": after + more} if more is not None else _never(one))
        with_all = check(evidence_of(prompt))
        for name, guard in check(evidence_of(late)).items():
            if guard.crossed_at:
                assert with_all[name].crossed_at and with_all[name].crossed_at[0] <= guard.crossed_at[0]

    def test_alarms_of_the_legacy_model_that_alone_are_looked_at_take_no_candidate_back(self) -> None:
        """An equal candidate, and inspectors who see the legacy model's alarms only."""
        lost, gained = part(NO_ALARM, ALARM, 5, ANOMALOUS), part(ALARM, NO_ALARM, 5, ANOMALOUS, labelled_after=None)
        parts = [group for day in range(40) for group in good_day(day, lost, gained)]
        assert tripped(evidence_of(parts)) == set()

    def test_drawn_parts_of_which_the_missed_are_looked_at_first_take_none_back(self) -> None:
        missed = part(NO_ALARM, NO_ALARM, 1, ANOMALOUS, drawn=1)
        found = part(ALARM, ALARM, 9, ANOMALOUS, labelled_after=None, drawn=1)
        parts = [group for day in range(40) for group in good_day(day, missed, found)]
        assert tripped(evidence_of(parts)) == set()


def _never(one: Part) -> Part:
    return {name: value for name, value in one.items() if name != "labelled_after"}


class TestDrift:
    SINCE = 30 * DAY

    def tripped(self, before: Sequence[Part], after: Sequence[Part], num_days: int = 20) -> set[str]:
        parts = [group for day in range(30) for group in good_day(day, *before)]
        parts += [group for day in range(30, 30 + num_days) for group in good_day(day, *after)]
        return tripped(evidence_of(parts, answering_since=self.SINCE))

    @pytest.mark.parametrize(("candidate", "legacy"), [(ALARM, NO_ALARM), (NO_ALARM, ALARM)])
    @pytest.mark.parametrize(("number", "expected"), [(15, set()), (45, {"drift"})])
    def test_it_sees_more_alarms_and_fewer_without_any_label(
        self, candidate: int, legacy: int, number: int, expected: set[str]
    ) -> None:
        assert self.tripped([], [part(candidate, legacy, number, labelled_after=None)]) == expected

    @pytest.mark.parametrize(("candidate", "legacy"), [(ALARM, NO_ALARM), (NO_ALARM, ALARM)])
    def test_what_shadow_mode_showed_is_usual(self, candidate: int, legacy: int) -> None:
        usual = part(candidate, legacy, 45, labelled_after=None)
        assert self.tripped([usual], [usual]) == set()

    def test_what_was_usual_and_stops_is_a_change(self) -> None:
        assert self.tripped([part(ALARM, NO_ALARM, 60, labelled_after=None)], []) == {"drift"}

    def test_it_is_about_the_difference_to_the_legacy_model(self) -> None:
        """More defects on the line raise the alarms of both."""
        assert self.tripped([], [part(ALARM, ALARM, 100, ANOMALOUS)]) == set()

    @pytest.mark.parametrize(
        ("candidate", "legacy", "truth"), [(ALARM, NO_ALARM, ANOMALOUS), (NO_ALARM, ALARM, NORMAL)]
    )
    def test_it_ignores_what_labels_prove_right(self, candidate: int, legacy: int, truth: int) -> None:
        right = part(candidate, legacy, 45, truth, labelled_after=0)
        wrong = part(candidate, legacy, 45, NORMAL if truth == ANOMALOUS else ANOMALOUS, labelled_after=0)
        assert self.tripped([], [right]) == set()
        assert "drift" in self.tripped([], [wrong])

    def test_before_the_candidate_answers_there_is_none(self) -> None:
        parts = [group for day in range(20) for group in good_day(day, part(ALARM, NO_ALARM, 60, labelled_after=None))]
        assert not {"drift", "alarm_rate", "misses"} & set(check(evidence_of(parts, answering_since=None)))
        assert "drift" not in check(evidence_of(parts, answering_since=0))  # nothing says what is usual

    def test_reference_parts_change_nothing(self) -> None:
        assert self.tripped([], [part(ALARM, NO_ALARM, 200, labelled_after=None, reference=1)]) == set()


class TestAlarmRateWhereTheCandidateIsAlone:
    SINCE = 30 * DAY

    def results(self, after: Sequence[Part], legacy: int = ABSENT) -> dict[str, GuardResult]:
        parts = [group for day in range(30) for group in good_day(day)]  # an alarm of 3 %
        alone = [part(ALARM, legacy, 12, labelled_after=None), *after]
        rest = part(NO_ALARM, legacy, A_DAY - sum(group["count"] for group in alone), labelled_after=None)
        parts += [group for day in range(30, 50) for group in day_of(day, *alone, rest)]
        return check(evidence_of(parts, answering_since=self.SINCE))

    def test_the_usual_rate_trips_nothing(self) -> None:
        assert not any(guard.active for guard in self.results([]).values())

    def test_more_alarms_do(self) -> None:
        results = self.results([part(ALARM, ABSENT, 40, labelled_after=None)])
        assert {name for name, guard in results.items() if guard.active} == {"alarm_rate"}
        assert not results["alarm_rate"].hard
        assert "more alarms than usual" in results["alarm_rate"].reason

    def test_defects_that_a_label_proves_do_not(self) -> None:
        assert not self.results([part(ALARM, ABSENT, 40, ANOMALOUS, labelled_after=0)])["alarm_rate"].active

    def test_fewer_do_where_many_were_usual(self) -> None:
        parts = [group for day in range(30) for group in good_day(day, part(ALARM, ALARM, 60, ANOMALOUS))]
        alone = [part(ALARM, ABSENT, 12, labelled_after=None), part(NO_ALARM, ABSENT, 388, labelled_after=None)]
        parts += [group for day in range(30, 50) for group in day_of(day, *alone)]
        guard = check(evidence_of(parts, answering_since=self.SINCE))["alarm_rate"]
        assert guard.active and "fewer alarms than usual" in guard.reason

    def test_where_the_legacy_model_judges_too_it_asks_nothing(self) -> None:
        assert "nothing measured" in self.results([part(ALARM, ALARM, 40)], NO_ALARM)["alarm_rate"].reason


class TestMissesSinceTheCandidateAnswers:
    SINCE = 30 * DAY

    def is_tripped(self, missed_before: int, missed_after: int, labelled_after: int = 4) -> bool:
        before = [part(NO_ALARM, ALARM, missed_before, ANOMALOUS, labelled_after), part(ALARM, NO_ALARM, 4, ANOMALOUS)]
        after = [part(NO_ALARM, ABSENT, missed_after, ANOMALOUS, drawn=1), part(ALARM, ABSENT, 8, ANOMALOUS, drawn=1)]
        parts = [group for day in range(30) for group in good_day(day, *before)]
        parts += [group for day in range(30, 60) for group in good_day(day, *after)]
        return check(evidence_of(parts, answering_since=self.SINCE))["misses"].active

    def test_what_it_missed_beside_the_legacy_model_is_usual(self) -> None:
        assert self.is_tripped(missed_before=0, missed_after=4)
        assert not self.is_tripped(missed_before=4, missed_after=4)
        assert self.is_tripped(missed_before=4, missed_after=12)

    def test_labels_of_former_parts_that_come_later_do_not_move_its_bound(self) -> None:
        """A stop that was proven stays proven."""
        assert self.is_tripped(missed_before=4, missed_after=4, labelled_after=60 * DAY)


class TestDegenerateBounds:
    @pytest.mark.parametrize("name", ["false_alarms", "errors", "dropped", "misses", "lost_defects"])
    def test_a_bound_of_0_is_crossed_by_the_first_and_a_bound_of_1_by_none(self, params: Params, name: str) -> None:
        raw = params.rollout.model_dump()
        parts = [group for day in range(60) for group in good_day(day)]
        parts += day_of(60, *({**group, "count": 1} for group in BROKEN[name]))
        for bound, expected in ((0.0, True), (1.0, False)):
            raw["guards"][name]["bound"] = bound
            policy = RolloutParams.model_validate(raw)
            flood = parts if expected else [*parts, *day_of(61, *({**group, "count": 5_000} for group in BROKEN[name]))]
            assert check(evidence_of(flood), policy)[name].active == expected

    @pytest.mark.parametrize("least_agreement", [0.0, 1.0])
    def test_so_are_those_of_agreement(self, least_agreement: float) -> None:
        parts = [group for day in range(60) for group in good_day(day)]
        parts += day_of(60, part(ALARM, NO_ALARM, 1 if least_agreement else 5_000, NORMAL))
        found = {guard.name: guard for guard in check_guards(evidence_of(parts), POLICY, least_agreement)}
        assert found["agreement"].active == bool(least_agreement)

    def test_all_guards_together_share_the_error_probability(self) -> None:
        """A candidate exactly at the bound of errors: at most `stop_error` over the number of hard guards."""
        rng = np.random.default_rng(5)
        failures = rng.binomial(A_DAY, POLICY.guards.errors.bound, size=(60, 25))
        stopped = 0
        for run in failures:
            parts = [
                group
                for day, number in enumerate(run)
                for group in day_of(
                    day, part(FAILED, NO_ALARM, int(number)), part(NO_ALARM, NO_ALARM, A_DAY - int(number))
                )
            ]
            stopped += check(evidence_of(parts))["errors"].active
        assert stopped <= 3
