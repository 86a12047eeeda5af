"""The rollout engine: stories, each kind of guard acting, and laws that no sequence of ticks may break."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from fixtures.rollout import (
    FIRST,
    HARD,
    LACKING,
    LEGACY,
    PEOPLE,
    SECOND,
    SOFT,
    START,
    WITH_LEGACY,
    Factory,
    trips,
    verdict,
)
from shadowline.core.params import Params
from shadowline.rollout.engine import ActionKind, RolloutStep, begin, join, leave, retire, step
from shadowline.rollout.guards import GuardResult
from shadowline.rollout.observation import (
    Approval,
    ChecklistItem,
    Observation,
    Order,
    OrderKind,
)
from shadowline.rollout.phases import (
    CANDIDATE_JUDGES,
    FORWARD,
    LEGAL_MOVES,
    TAKEN_OVER,
    WITHOUT_LEGACY,
    Phase,
    check_move,
)
from shadowline.rollout.state import STAYS, ClassState, Event, RolloutState, replay
from shadowline.rollout.verdict import VerdictOutcome


@pytest.fixture
def factory(params: Params) -> Factory:
    return Factory(params)


class TestTheTableOfLegalMoves:
    LEGAL = """
        legacy > shadow alone held
        shadow > canary rolled_back held
        canary > live rolled_back held
        live > legacy_read_only rolled_back held
        legacy_read_only > legacy_off rolled_back held
        legacy_off > legacy_deleted rolled_back held
        legacy_deleted > shadow
        alone > shadow
        rolled_back > shadow
        held > legacy shadow canary live legacy_read_only legacy_off rolled_back
    """

    @pytest.mark.parametrize("source", list(Phase))
    @pytest.mark.parametrize("target", list(Phase))
    def test_every_pair_of_phases_is_legal_or_refused(self, source: Phase, target: Phase) -> None:
        lines = (line.split(">") for line in self.LEGAL.split("\n") if ">" in line)
        legal = {Phase(left.strip()): {*map(Phase, right.split()), Phase.RETIRED} for left, right in lines}
        legal[Phase.RETIRED] = {Phase.LEGACY}
        assert set(legal) == set(Phase) == set(LEGAL_MOVES)
        if target in legal[source]:
            check_move("bolt", source, target)
        else:
            with pytest.raises(ValueError, match=rf"'bolt': no move from {source} to {target}"):
                check_move("bolt", source, target)


class TestAMigrationByTheBook:
    def test_it_goes_wave_by_wave_to_the_end(self, factory: Factory) -> None:
        assert factory.tick() == {"bolt": (Phase.SHADOW, 0.0), "nut": (Phase.SHADOW, 0.0), "gear": (Phase.LEGACY, 0.0)}
        factory.run_to("bolt", Phase.CANARY)
        assert factory.now - START >= timedelta(days=28)  # four weeks of evidence
        assert factory.state.of("nut").share == 0.1
        factory.tick(2)
        assert factory.state.of("bolt").share == 0.1  # three production days
        factory.tick(1)
        assert factory.state.of("bolt").share == 0.5
        factory.tick(3)
        assert factory.state.of("bolt").phase is Phase.LIVE
        assert factory.state.of("gear").phase is Phase.LEGACY
        factory.tick(13)
        assert factory.state.of("gear").phase is Phase.LEGACY  # two weeks of stabilisation first
        factory.run_to("gear", Phase.LEGACY_DELETED)
        assert {cls.phase for cls in factory.state.classes} == {Phase.LEGACY_DELETED}

    def test_the_legacy_is_switched_off_after_eight_weeks_beside_the_candidate(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LEGACY_OFF)
        shadowed = next(e.at for e in factory.events if e.after.phase is Phase.SHADOW)
        assert factory.now - shadowed >= timedelta(days=56)

    def test_promotion_happens_once_when_every_class_is_live(self, factory: Factory) -> None:
        promotions = 0
        while factory.state.of("gear").phase is not Phase.LEGACY_READ_ONLY:
            factory.tick()
            assert factory.last is not None
            found = [a for a in factory.last.actions if a.kind is ActionKind.PROMOTE]
            promotions += len(found)
            assert bool(promotions) == factory.state.all_taken_over
        assert promotions == 1

    def test_without_a_persons_word_nothing_answers(self, factory: Factory) -> None:
        factory.approve = False
        for _ in range(100):
            factory.tick()
        assert factory.state.of("bolt").phase is Phase.SHADOW
        assert factory.last is not None and "approval of canary" in factory.last.reason

    def test_the_legacy_is_not_switched_off_on_a_verdict_of_the_past(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LEGACY_READ_ONLY)
        for _ in range(60):
            factory.tick(bolt=LACKING)
        assert factory.state.of("bolt").phase is Phase.LEGACY_READ_ONLY
        factory.tick()
        assert factory.state.of("bolt").phase is Phase.LEGACY_OFF

    def test_a_class_whose_models_were_not_observed_stays_where_it_is(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        for change in ({"candidate": "another"}, {"legacy": "another"}):
            factory.tick(9, bolt=change)
            assert factory.state.of("bolt").share == 0.1
        factory.tick(1)
        assert factory.state.of("bolt").share == 0.5

    def test_an_approval_of_another_candidate_opens_nothing(self, factory: Factory) -> None:
        factory.approve = False
        factory.tick()
        factory.tick(40)
        one = factory.state.of("bolt")
        others = tuple(Approval(name, Phase.CANARY, LEGACY[name], SECOND[name], "Ada") for name in ("bolt", "nut"))
        classes = tuple(factory.seen(c) for c in factory.state.classes)
        result = step(factory.state, Observation(factory.now, FIRST, classes, (), others), factory.policy)
        assert result.state.of("bolt").phase is one.phase is Phase.SHADOW

    def test_the_worst_class_of_a_wave_decides(self, factory: Factory) -> None:
        factory.tick()
        for _ in range(60):
            factory.tick(nut=LACKING)
        assert {factory.state.of(n).phase for n in ("bolt", "nut")} == {Phase.SHADOW}
        factory.tick()
        assert {factory.state.of(n).phase for n in ("bolt", "nut")} == {Phase.CANARY}

    @pytest.mark.parametrize("item", sorted(PEOPLE))
    def test_each_item_of_the_checklist_bars_deletion(self, factory: Factory, item: ChecklistItem) -> None:
        factory.run_to("bolt", Phase.LEGACY_OFF)
        factory.run_to("gear", Phase.LEGACY_READ_ONLY)
        evidence = {"evidence": PEOPLE - {item}}
        factory.tick(60, bolt=evidence, nut=evidence)
        factory.tick(60, bolt=evidence, nut=evidence)
        assert factory.state.of("bolt").phase is Phase.LEGACY_OFF
        factory.run_to("bolt", Phase.LEGACY_DELETED)

    def test_no_legacy_is_deleted_before_every_model_has_migrated(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.SHADOW)
        claims = {"evidence": frozenset(ChecklistItem)}
        for _ in range(90):
            factory.tick(1, bolt=claims, nut=claims, gear=LACKING)
        assert factory.state.of("gear").phase is Phase.SHADOW
        assert factory.state.of("bolt").phase is Phase.LEGACY_OFF


class TestGuards:
    @pytest.mark.parametrize("name", sorted(HARD))
    @pytest.mark.parametrize("phase", WITH_LEGACY)
    def test_a_hard_one_takes_the_class_back_at_once_and_no_other(
        self, factory: Factory, name: str, phase: Phase
    ) -> None:
        factory.run_to("bolt", phase)
        nut = factory.state.of("nut")
        after = factory.tick(0.1, bolt=trips(name))
        assert after["bolt"] == (Phase.ROLLED_BACK, 0.0)
        assert after["nut"] == (nut.phase, nut.share)
        one = factory.state.of("bolt")
        assert one.reason.startswith(name)
        assert (one.evidence_since, one.answering_since, one.days_before, one.alarm) == (None, None, 0, "")

    def test_two_that_trip_at_once_are_both_named(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(0.1, bolt=trips("misses", "errors", "latency"))
        assert [line.partition(":")[0] for line in factory.state.of("bolt").reason.split("; ")] == ["errors", "misses"]

    @pytest.mark.parametrize("name", sorted(SOFT))
    @pytest.mark.parametrize("phase", WITH_LEGACY)
    def test_a_soft_one_bars_the_way_and_takes_nothing_back(self, factory: Factory, name: str, phase: Phase) -> None:
        factory.run_to("bolt", phase)
        share = factory.state.of("bolt").share
        for _ in range(70):
            factory.tick(bolt=trips(name))
            assert (factory.state.of("bolt").phase, factory.state.of("bolt").share) == (phase, share)
        factory.run_days(1)
        assert (factory.state.of("bolt").phase, factory.state.of("bolt").share) != (phase, share)

    def test_people_are_told_of_a_soft_one_once_per_crossing(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        crossed = factory.now + timedelta(hours=1)
        latency = GuardResult("latency", False, (crossed,), True, "latency: slow")
        for _ in range(5):
            factory.tick(0.1, bolt={"guards": (latency,)})
        assert factory.told("bolt") == ["alarm: latency: slow"]
        assert factory.state.of("bolt").alarmed_at == crossed
        later = replace(latency, crossed_at=(crossed, factory.now), reason="latency: slow again")
        for _ in range(5):
            factory.tick(0.1, bolt={"guards": (later,)})
        assert factory.told("bolt")[1:] == ["alarm: latency: slow again"]

    def test_an_older_crossing_does_not_hide_behind_a_newer_one(self, factory: Factory) -> None:
        """Two guards cross between two ticks, an hour apart: people hear of both."""
        factory.run_to("bolt", Phase.CANARY)
        slow = GuardResult("latency", False, (factory.now + timedelta(hours=1),), True, "latency: slow")
        lost = GuardResult("dropped", False, (factory.now + timedelta(hours=2),), True, "dropped: many")
        factory.tick(0.2, bolt={"guards": (slow, lost)})
        assert factory.told("bolt") == ["alarm: latency: slow; dropped: many"]

    def test_one_that_crossed_and_bars_no_longer_was_told_all_the_same(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        past = GuardResult("latency", False, (factory.now,), False, "latency: was slow")
        assert factory.tick(20, bolt={"guards": (past,)})["bolt"] == (Phase.CANARY, 0.5)
        factory.tick(0.1, bolt={"guards": (past,)})
        assert factory.told("bolt") == ["alarm: latency: was slow"]

    @pytest.mark.parametrize("name", sorted(HARD))
    def test_with_no_legacy_model_left_a_hard_one_tells_and_takes_nothing_back(
        self, factory: Factory, name: str
    ) -> None:
        factory.run_to("bolt", Phase.LEGACY_DELETED)
        factory.tick(0.1, bolt=trips(name))
        assert factory.state.of("bolt").phase is Phase.LEGACY_DELETED
        (told,) = factory.told("bolt")
        assert told.startswith(f"alarm: {name}")

    def test_a_wave_goes_back_together_when_the_policy_says_so(self, params: Params) -> None:
        factory = Factory(params, rollback_scope="wave")
        factory.run_to("bolt", Phase.CANARY)
        after = factory.tick(0.1, bolt=trips("errors"))
        assert {after["bolt"], after["nut"]} == {(Phase.ROLLED_BACK, 0.0)}
        assert factory.state.of("nut").reason == "wave 1 goes back with bolt"

    def test_a_failed_verdict_alone_moves_nothing(self, factory: Factory) -> None:
        """It fails where a guard has tripped; the guard takes the class back."""
        factory.tick()
        for _ in range(60):
            factory.tick(bolt={"verdict": verdict(VerdictOutcome.FAIL, "errors: 9 %")})
        assert factory.state.of("bolt").phase is Phase.SHADOW


class TestSilence:
    @pytest.mark.parametrize("days", [8, 60])
    @pytest.mark.parametrize("phase", WITH_LEGACY)
    def test_a_line_that_stands_still_stops_the_clocks_and_takes_nothing_back(
        self, factory: Factory, phase: Phase, days: int
    ) -> None:
        factory.run_to("bolt", phase)
        before = [(cls.phase, cls.share, cls.since) for cls in factory.state.classes]
        factory.producing = False
        factory.run_days(days)
        assert [(cls.phase, cls.share, cls.since) for cls in factory.state.classes] == before
        assert all(len(factory.told(name)) <= 1 for name in LEGACY)
        (told,) = factory.told("bolt")
        assert told.startswith("alarm: no image since")

    def test_a_stop_prolongs_a_migration_by_itself_and_nothing_else(self, params: Params) -> None:
        def moves(stop_on: int, length: int) -> list[tuple[str, Phase, int]]:
            factory = Factory(params)
            for day in range(200 + length):
                factory.producing = not stop_on <= day < stop_on + length
                factory.tick()
            at = [(event, (event.at - START).days) for event in factory.events if event.is_move]
            return [
                (event.after.class_name, event.after.phase, day - (length if day > stop_on else 0)) for event, day in at
            ]

        running = moves(0, 0)
        for stop_on in (1, 20, 28, 33, 61, 120):
            assert moves(stop_on, 30) == running

    def test_it_is_told_once_each_time_and_forgotten_when_images_come(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        for number in (1, 2):
            factory.producing = False
            since = factory.now
            factory.run_days(5)
            assert factory.state.of("bolt").silent_since == since
            assert len(factory.told("bolt")) == number
            factory.producing = True
            factory.run_days(1)
            assert factory.state.of("bolt").silent_since is None

    def test_two_silences_that_no_tick_fell_between_are_two(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        factory.producing = False
        factory.tick(3)
        factory.last_received = factory.now - timedelta(hours=30)  # an image came, and the line stopped again
        factory.tick(0.1)
        assert len(factory.told("bolt")) == 2

    def test_a_weekend_that_has_been_there_before_alarms_nobody(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        factory.longest_pause, factory.producing = timedelta(hours=56), False
        factory.tick(3)  # 72 hours, up to 84
        assert not factory.told("bolt")
        factory.tick(1)
        assert len(factory.told("bolt")) == 1

    def test_silence_and_a_guard_are_told_in_one_breath(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        factory.producing = False
        factory.tick(3, bolt=trips("latency"))
        (told,) = factory.told("bolt")
        assert "no image since" in told and "latency: on" in told

    def test_misses_that_nothing_measures_are_told_once_and_only_without_the_legacy_model(
        self, factory: Factory
    ) -> None:
        since = {"unmeasured_since": START}
        factory.run_to("bolt", Phase.LEGACY_READ_ONLY)
        factory.tick(0.1, bolt=since)
        assert not factory.told("bolt")
        factory.run_to("bolt", Phase.LEGACY_OFF)
        for _ in range(3):
            factory.tick(0.1, bolt=since)
        (told,) = factory.told("bolt")
        assert f"misses are not measured since {START:%Y-%m-%d}: label the parts drawn for review" in told
        factory.tick(0.1)
        factory.tick(0.1, bolt={"unmeasured_since": factory.now})
        assert len(factory.told("bolt")) == 2

    def test_no_legacy_model_is_deleted_before_misses_are_measured_without_it(self, params: Params) -> None:
        factory = Factory(params, waves=[["bolt"]])
        factory.run_to("bolt", Phase.LEGACY_OFF)
        for _ in range(200):
            factory.tick(bolt={"unproven_misses": "of 3 known defects 3 were missed"})
        assert factory.state.of("bolt").phase is Phase.LEGACY_OFF
        assert factory.last is not None and "of 3 known defects 3 were missed" in factory.last.reason
        factory.tick()
        assert factory.state.of("bolt").phase is Phase.LEGACY_DELETED

    def test_a_change_of_the_clocks_is_no_silence(self, factory: Factory) -> None:
        """Two times of one zone are subtracted as clocks on the wall; the night of the change has an hour more."""
        factory.run_to("bolt", Phase.LIVE)
        berlin = ZoneInfo("Europe/Berlin")
        one = factory.state.of("bolt")
        entered = datetime(2026, 3, 28, 12, tzinfo=berlin)
        state = factory.state.with_classes([replace(one, evidence_since=entered, since=entered)])
        for hours, silent in ((24.5, True), (23.5, False)):
            now = (entered.astimezone(UTC) + timedelta(hours=hours)).astimezone(berlin)
            seen = factory.seen(state.of("bolt"), last_received=None, phase_days=0, parallel_days=0)
            result = step(state, Observation(now, FIRST, (seen,)), factory.policy)
            assert (result.state.of("bolt").silent_since is not None) == silent
            assert all(event.at.tzinfo is UTC for event in result.events)

    def test_a_tick_without_a_time_zone_is_refused(self, factory: Factory) -> None:
        with pytest.raises(ValueError, match="no time zone; give UTC"):
            Observation(datetime(2026, 1, 5), FIRST)


class TestWhatIsDueHappensAtOnce:
    """No class waits for a tick of its own: not for another class's order, rollback or move."""

    def test_an_order_for_one_class_delays_no_rollback_of_another(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        hold = Order(OrderKind.HOLD, ("nut",), "Ada", "cleaning")
        after = factory.tick(0.1, [hold], bolt=trips("errors"))
        assert (after["bolt"], after["nut"]) == ((Phase.ROLLED_BACK, 0.0), (Phase.HELD, 0.1))
        by = {event.after.class_name: event.by for event in factory.last.events} if factory.last else {}
        assert by == {"bolt": "engine", "nut": "Ada"}

    @pytest.mark.parametrize("kind", [OrderKind.HOLD, OrderKind.RESUME])
    def test_an_order_that_would_keep_a_class_at_work_gives_way_to_a_hard_guard(
        self, factory: Factory, kind: OrderKind
    ) -> None:
        factory.run_to("bolt", Phase.CANARY)
        if kind is OrderKind.RESUME:
            factory.tick(0.1, [Order(OrderKind.HOLD, ("bolt",), "Ada", "wait")])
        factory.tick(0.1, [Order(kind, ("bolt",), "Ada", "go on")], bolt=trips("errors"))
        assert factory.state.of("bolt").phase is Phase.ROLLED_BACK

    def test_a_rollback_of_one_class_delays_no_move_of_another(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(1, nut=trips("errors"))
        factory.tick(2, bolt=trips("latency"))
        factory.challenger = {**FIRST, "nut": SECOND["nut"]}
        after = factory.tick(1)
        assert (after["bolt"], after["nut"]) == ((Phase.CANARY, 0.5), (Phase.SHADOW, 0.0))

    def test_a_class_does_not_begin_on_the_word_of_one_that_is_taken_back_at_this_tick(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        factory.run_days(13)
        after = factory.tick(1, bolt=trips("errors"))
        assert (after["bolt"][0], after["nut"][0], after["gear"][0]) == (
            Phase.ROLLED_BACK, Phase.LEGACY_READ_ONLY, Phase.LEGACY,
        )  # fmt: skip

    def test_every_group_that_is_ready_moves(self, params: Params) -> None:
        factory = Factory(params, [["bolt"], ["nut"], ["gear"]], stabilisation_days=0)
        factory.run_to("bolt", Phase.LIVE)
        factory.run_days(1)
        assert factory.state.of("nut").phase is Phase.SHADOW
        factory.run_to("nut", Phase.LIVE)
        factory.run_days(1)
        before = factory.state
        factory.tick(40)
        moved = [cls.class_name for cls in factory.state.classes if cls.phase is not before.of(cls.class_name).phase]
        assert len(moved) >= 2


class TestRollbackAndRecovery:
    def test_what_failed_stays_failed_until_the_candidate_changes(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(0.1, bolt=trips("errors"))
        for _ in range(60):
            factory.tick()
        assert factory.state.of("bolt").phase is Phase.ROLLED_BACK
        factory.challenger = SECOND
        factory.tick()
        one = factory.state.of("bolt")
        assert (one.phase, one.candidate) == (Phase.SHADOW, SECOND["bolt"])

    def test_a_wave_with_a_failed_class_holds_the_next_wave(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        factory.tick(0.1, nut=trips("errors"))
        factory.tick(60)
        assert factory.state.of("gear").phase is Phase.LEGACY

    def test_after_deletion_nothing_moves_without_a_successor(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.LEGACY_DELETED)
        before = factory.state
        order = Order(OrderKind.ROLL_BACK, ("bolt",), "Ada", "too late")
        factory.tick(1, [order])
        assert factory.state.classes == before.classes


class TestSuccession:
    def test_a_new_challenger_is_compared_with_the_candidate_that_lives(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.LEGACY_DELETED)
        factory.challenger = {**FIRST, "bolt": SECOND["bolt"]}
        after = factory.tick()
        one = factory.state.of("bolt")
        assert after == {**dict.fromkeys(("nut", "gear"), (Phase.LEGACY_DELETED, 1.0)), "bolt": (Phase.SHADOW, 0.0)}
        assert (one.legacy, one.candidate) == (FIRST["bolt"], SECOND["bolt"])
        assert one.evidence_since == factory.now  # the weeks beside the model before do not count
        assert (one.answering_since, one.days_before, one.alarm) == (None, 0, "")

    def test_one_that_fails_leaves_the_class_with_what_lived(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.LEGACY_DELETED)
        factory.challenger = {**FIRST, "bolt": SECOND["bolt"]}
        factory.tick()
        assert factory.tick(0.1, bolt=trips("errors"))["bolt"] == (Phase.ROLLED_BACK, 0.0)
        assert factory.state.of("bolt").legacy == FIRST["bolt"]
        factory.run_days(60)
        assert factory.state.of("bolt").phase is Phase.ROLLED_BACK

    def test_it_is_tried_at_once_by_whoever_lives_and_whoever_was_taken_back(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LEGACY_DELETED)
        factory.tick(0.1, [Order(OrderKind.ROLL_BACK, ("gear",), "Ada", "customer complaint")])
        factory.challenger = SECOND
        assert factory.tick() == dict.fromkeys(("bolt", "nut", "gear"), (Phase.SHADOW, 0.0))
        legacy = {cls.class_name: cls.legacy for cls in factory.state.classes}
        assert legacy == {"bolt": FIRST["bolt"], "nut": FIRST["nut"], "gear": LEGACY["gear"]}

    def test_it_goes_all_the_way_again(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.LEGACY_DELETED)
        factory.challenger = SECOND
        factory.tick()
        factory.run_to("gear", Phase.LEGACY_DELETED)
        assert {cls.candidate for cls in factory.state.classes} == set(SECOND.values())
        assert {cls.num_successions for cls in factory.state.classes} == {1}


class TestNewProducts:
    def enrol(self, factory: Factory, starter: str = "words-cap") -> tuple[Event, ...]:
        events = join(factory.state, "cap", starter, factory.now, "Ada")
        factory.events += events
        factory.state = replay(factory.events)
        return events

    def test_a_new_product_is_answered_for_at_once_and_waits_for_no_wave(self, factory: Factory) -> None:
        factory.tick()
        self.enrol(factory)
        assert factory.tick()["cap"] == (Phase.LEGACY, 0.0)
        assert "cap: a challenger that knows the class" in (factory.last.waiting if factory.last else ())
        factory.challenger = {**FIRST, "cap": "v2-cap"}
        assert factory.tick()["cap"] == (Phase.SHADOW, 0.0)
        assert factory.state.of("gear").phase is Phase.LEGACY  # of a planned wave, whose turn has not come

    def test_no_wave_waits_for_it_and_no_deletion(self, factory: Factory) -> None:
        self.enrol(factory)
        factory.run_to("gear", Phase.LEGACY_DELETED)
        assert factory.state.of("cap").phase is Phase.LEGACY

    def test_a_better_starter_takes_over_until_a_candidate_is_compared_with_it(self, factory: Factory) -> None:
        assert len(self.enrol(factory)) == 1
        assert not self.enrol(factory)  # again: no effect
        assert len(self.enrol(factory, "four-images-cap")) == 1
        factory.challenger = {**FIRST, "cap": "v2-cap"}
        factory.tick()
        factory.tick()
        assert factory.state.of("cap").phase is Phase.SHADOW
        assert not self.enrol(factory, "nine-images-cap")
        assert factory.state.of("cap").legacy == "four-images-cap"

    def test_it_can_be_there_before_any_migration_is_planned(self) -> None:
        first = join(RolloutState(()), "cap", "words-cap", START, "Ada")
        state, events = begin([["bolt"], ["nut"]], LEGACY, FIRST, START, "Ada", replay(first))
        assert replay([*first, *events]) == state
        assert [(cls.class_name, cls.wave) for cls in state.classes] == [("cap", 0), ("bolt", 1), ("nut", 2)]

    def test_it_follows_the_newest_challenger_that_knows_it(self, factory: Factory) -> None:
        self.enrol(factory)
        factory.policy = factory.policy.model_copy(update={"approvals": ("shadow",)})
        factory.approve = False
        factory.challenger = {**FIRST, "cap": "v2-cap"}
        factory.tick()
        assert factory.state.of("cap").candidate == "v2-cap"
        factory.approve = True
        assert factory.tick()["cap"] == (Phase.SHADOW, 0.0)

    def test_it_can_be_planned_into_a_wave(self, factory: Factory) -> None:
        self.enrol(factory)
        factory.take(begin([["cap"]], {"cap": "words-cap"}, {"cap": "v2-cap"}, factory.now, "Ada", factory.state))
        assert (factory.state.of("cap").wave, factory.state.of("cap").legacy) == (3, "words-cap")

    def test_two_new_products_do_not_wait_for_each_other(self, factory: Factory) -> None:
        self.enrol(factory)
        factory.events += join(factory.state, "lid", "words-lid", factory.now, "Ada")
        factory.state = replay(factory.events)
        factory.challenger = {**FIRST, "cap": "v2-cap"}
        assert factory.tick()["cap"] == (Phase.SHADOW, 0.0)
        assert factory.state.of("lid").phase is Phase.LEGACY


class TestOrders:
    def test_hold_stops_the_clock_and_resume_restarts_it(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(1, [Order(OrderKind.HOLD, ("bolt", "nut"), "Ada", "line is being cleaned")])
        held = factory.state.of("bolt")
        assert (held.phase, held.standing, held.share) == (Phase.HELD, Phase.CANARY, 0.1)
        factory.tick(100)
        assert factory.state.of("bolt") == held
        factory.tick(0, [Order(OrderKind.RESUME, ("bolt", "nut"), "Ada", "clean")])
        assert factory.state.of("bolt").days_before == 1  # before it was held
        factory.tick(1)
        assert factory.state.of("bolt").share == 0.1
        factory.tick(1)
        assert factory.state.of("bolt").share == 0.5
        assert factory.state.of("bolt").days_before == 0

    def test_days_before_two_holds_add_up(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        for number in range(1, 4):
            factory.tick(3)
            factory.tick(0, [Order(OrderKind.HOLD, ("bolt",), "Ada", "wait")])
            factory.tick(50)
            factory.tick(0, [Order(OrderKind.RESUME, ("bolt",), "Ada", "go on")])
            assert factory.state.of("bolt").days_before == 3 * number
        factory.tick(4)
        assert factory.state.of("bolt").phase is Phase.LIVE
        factory.tick(1)
        assert factory.state.of("bolt").phase is Phase.LEGACY_READ_ONLY

    def test_what_is_held_waits_and_lets_later_waves_wait(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        factory.tick(1, [Order(OrderKind.HOLD, ("bolt",), "Ada", "wait")])
        factory.run_days(100)
        assert (factory.state.of("bolt").phase, factory.state.of("gear").phase) == (Phase.HELD, Phase.LEGACY)

    def test_a_hard_guard_acts_while_held(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(1, [Order(OrderKind.HOLD, ("bolt",), "Ada", "wait")])
        factory.tick(1, bolt=trips("errors"))
        assert factory.state.of("bolt").phase is Phase.ROLLED_BACK

    def test_a_rollback_by_a_person_names_them(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        factory.tick(0.1, [Order(OrderKind.ROLL_BACK, ("bolt",), "Ada", "customer complaint")])
        assert factory.state.of("bolt").reason == "Ada: customer complaint"
        assert factory.events[-1].by == "Ada"

    def test_an_order_for_an_unknown_class_is_refused(self, factory: Factory) -> None:
        with pytest.raises(ValueError, match="'screw' is not in the rollout"):
            factory.tick(1, [Order(OrderKind.HOLD, ("screw",), "Ada", "?")])


class TestBegin:
    def test_a_class_without_a_legacy_model_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'screw': no legacy model"):
            begin([["screw"]], LEGACY, FIRST, START, "Ada")

    def test_a_class_that_the_challenger_does_not_know_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'bolt': the challenger does not know it"):
            begin([["bolt"]], LEGACY, {}, START, "Ada")

    def test_a_class_in_two_waves_is_refused(self) -> None:
        with pytest.raises(ValueError, match="occurs twice"):
            begin([["bolt"], ["bolt"]], LEGACY, FIRST, START, "Ada")

    def test_a_class_that_has_a_legacy_model_does_not_start_without(self) -> None:
        with pytest.raises(ValueError, match="'bolt': has a legacy model, legacy-bolt; leave out --without-legacy"):
            begin([["bolt"]], LEGACY, FIRST, START, "Ada", without_legacy=["bolt"])


class TestAPlanThatGrows:
    MODELS = ({**LEGACY, "washer": "legacy-washer"}, {**FIRST, "washer": "v1-washer"})

    def test_further_classes_come_in_waves_after_those_that_are_planned(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        before = factory.state
        factory.take(begin([["washer"]], *self.MODELS, factory.now, "Bob", factory.state))
        assert (factory.state.of("washer").wave, factory.state.of("washer").phase) == (3, Phase.LEGACY)
        assert factory.state.classes[:3] == before.classes
        assert factory.events[-1].by == "Bob"
        factory.challenger = self.MODELS[1]
        factory.run_to("gear", Phase.LIVE)
        assert factory.state.of("washer").phase is Phase.LEGACY
        factory.run_to("washer", Phase.LEGACY_DELETED)

    def test_what_has_not_begun_changes_its_turn(self, params: Params) -> None:
        factory = Factory(params, [["bolt"], ["nut"], ["gear"]])
        factory.tick()
        factory.take(begin([["gear"], ["nut"]], LEGACY, FIRST, factory.now, "Ada", factory.state))
        assert [cls.class_name for cls in factory.state.classes] == ["bolt", "gear", "nut"]
        assert factory.state.waves == (1, 4, 5)
        factory.run_to("gear", Phase.SHADOW)
        assert factory.state.of("nut").phase is Phase.LEGACY

    @pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.LIVE, Phase.LEGACY_DELETED])
    def test_what_is_on_its_way_is_refused_and_so_is_the_whole_plan(self, factory: Factory, phase: Phase) -> None:
        factory.run_to("bolt", phase)
        with pytest.raises(ValueError, match=f"'bolt': is in {phase} already"):
            begin([["washer"], ["bolt"]], *self.MODELS, factory.now, "Ada", factory.state)

    def test_what_was_taken_back_keeps_its_failure_in_another_wave(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(0.1, nut=trips("errors"))
        factory.take(begin([["nut"]], LEGACY, SECOND, factory.now, "Ada", factory.state))
        one = factory.state.of("nut")
        assert (one.wave, one.phase, one.candidate) == (3, Phase.ROLLED_BACK, FIRST["nut"])
        factory.run_days(60)
        assert factory.state.of("nut").phase is Phase.ROLLED_BACK
        assert factory.state.of("gear").phase is not Phase.LEGACY  # wave 2 no longer waits for it
        factory.challenger = {**FIRST, "nut": SECOND["nut"]}
        factory.tick()
        assert factory.state.of("nut").phase is Phase.SHADOW

    def test_a_class_that_leaves_stays_with_its_legacy_model_and_nobody_waits_for_it(self, factory: Factory) -> None:
        factory.tick()
        result = leave(factory.state, "gear", factory.now, "Ada")
        factory.take((result.state, result.events))
        assert factory.state.of("gear").wave == STAYS
        factory.challenger = SECOND
        factory.run_to("bolt", Phase.LEGACY_DELETED)
        assert (factory.state.of("gear").phase, factory.state.of("gear").candidate) == (Phase.LEGACY, FIRST["gear"])
        factory.take(begin([["gear"]], LEGACY, SECOND, factory.now, "Ada", factory.state))
        after = factory.tick()
        assert after["gear"] == after["bolt"] == (Phase.SHADOW, 0.0)  # it does not wait for successors

    def test_one_that_was_taken_back_may_leave_and_is_not_tried_again(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(0.1, nut=trips("errors"))
        result = leave(factory.state, "nut", factory.now, "Ada")
        factory.take((result.state, result.events))
        factory.challenger = SECOND
        factory.tick()
        assert factory.state.of("nut").phase is Phase.ROLLED_BACK

    def test_one_on_its_way_does_not_leave(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        with pytest.raises(ValueError, match=r"is in canary; `shadowline rollout rollback` comes first"):
            leave(factory.state, "bolt", factory.now, "Ada")

    def test_when_the_last_that_was_waited_for_leaves_the_others_are_promoted(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        result = leave(factory.state, "gear", factory.now, "Ada")
        assert [action.kind for action in result.actions] == [ActionKind.PROMOTE]
        assert not leave(result.state, "gear", factory.now, "Ada").actions  # once


class TestAClassWithoutALegacyModel:
    @pytest.fixture
    def factory(self, params: Params) -> Factory:
        factory = Factory(params, [["bolt"]])
        without_gear = {"bolt": LEGACY["bolt"]}
        factory.take(begin([["gear"]], without_gear, FIRST, START, "Ada", factory.state, without_legacy=["gear"]))
        return factory

    def test_its_first_model_answers_alone_when_a_person_says_so(self, factory: Factory) -> None:
        factory.approve = False
        factory.run_days(1)
        factory.approve = True
        factory.run_to("bolt", Phase.LIVE)
        assert factory.state.of("gear").phase is Phase.LEGACY
        factory.approve = False
        factory.run_days(20)
        assert factory.last is not None
        assert "gear: a person's approval of alone with exactly these models" in factory.last.waiting
        factory.approve = True
        assert factory.tick()["gear"] == (Phase.ALONE, 1.0)
        one = factory.state.of("gear")
        assert (one.legacy, one.candidate, one.evidence_since) == ("", FIRST["gear"], factory.now)

    def test_nothing_takes_it_back_and_it_is_told(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.ALONE)
        before = factory.state.of("gear")
        factory.tick(1, gear=trips("misses", "alarm_rate"))
        factory.tick(1, [Order(OrderKind.ROLL_BACK, ("gear",), "Ada", "complaint")])
        factory.run_days(100)
        after = factory.state.of("gear")
        assert (after.phase, after.share, after.since) == (Phase.ALONE, 1.0, before.since)
        (told,) = factory.told("gear")
        assert "misses" in told and "alarm_rate" in told

    def test_its_successor_is_compared_with_it(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.ALONE)
        factory.challenger = {**FIRST, "gear": SECOND["gear"]}
        assert factory.tick()["gear"] == (Phase.SHADOW, 0.0)
        one = factory.state.of("gear")
        assert (one.legacy, one.candidate) == (FIRST["gear"], SECOND["gear"])
        assert factory.tick(1, gear=trips("errors"))["gear"] == (Phase.ROLLED_BACK, 0.0)

    def test_with_it_the_migration_is_complete(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.ALONE)
        assert factory.state.all_taken_over
        assert sum(action.kind is ActionKind.PROMOTE for action in factory.actions) == 1


class TestWhatIsApprovedIsWhatEnters:
    @pytest.mark.parametrize("without", [(), ("bolt",)], ids=["shadow", "alone"])
    def test_an_approval_of_the_planned_candidate_does_not_let_a_newer_one_in(
        self, params: Params, without: tuple[str, ...]
    ) -> None:
        target = Phase.ALONE if without else Phase.SHADOW
        policy = params.rollout.model_copy(update={"approvals": (target,)})
        legacy = {} if without else {"bolt": LEGACY["bolt"]}
        state, _ = begin([["bolt"]], legacy, FIRST, START, "Ada", without_legacy=without)

        def tick(before: RolloutState, approved: str) -> RolloutState:
            approval = Approval("bolt", target, legacy.get("bolt", ""), approved, "Ada")
            return step(before, Observation(START, SECOND, approvals=(approval,)), policy).state

        waits = tick(state, FIRST["bolt"])
        assert (waits.of("bolt").phase, waits.of("bolt").candidate) == (Phase.LEGACY, SECOND["bolt"])
        assert tick(waits, FIRST["bolt"]) == waits
        entered = tick(waits, SECOND["bolt"]).of("bolt")
        assert (entered.phase, entered.candidate) == (target, SECOND["bolt"])


class TestReplay:
    @pytest.mark.parametrize("victim", [0, 3, 5])
    def test_a_missing_event_is_found(self, factory: Factory, victim: int) -> None:
        factory.run_to("bolt", Phase.CANARY)
        with pytest.raises(ValueError, match="missing"):
            replay([event for index, event in enumerate(factory.events) if index != victim])

    def test_states_survive_json(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(1, [Order(OrderKind.HOLD, ("bolt",), "Ada", "wait")])
        for cls in factory.state.classes:
            assert ClassState.from_dict(cls.to_dict()) == cls

    def test_events_of_earlier_versions_are_read(self, factory: Factory) -> None:
        """They counted soft failures, and called `evidence_since` otherwise."""
        factory.run_to("bolt", Phase.CANARY)
        one = factory.state.of("bolt")
        raw = json.loads(json.dumps(one.to_dict()))
        new = ("days_before", "evidence_since", "answering_since", "alarmed_at", "silent_since", "alarm")
        former = {name: value for name, value in raw.items() if name not in new}
        former |= {"parallel_since": raw["evidence_since"], "soft_failures": 2, "last_failure": "latency: 151 ms"}
        assert one.answering_since == one.since
        assert ClassState.from_dict(former) == one


# --- laws -------------------------------------------------------------------------------------------------------

_health = st.fixed_dictionaries(
    {},
    optional={
        "tripped": st.sets(st.sampled_from(sorted(HARD | SOFT)), max_size=2).map(tuple),
        "verdict": st.sampled_from([verdict(outcome) for outcome in VerdictOutcome]),
        "candidate": st.sampled_from(["v1-bolt", "v9"]),
        "phase_days": st.integers(0, 40),
        "evidence": st.sampled_from([frozenset(), PEOPLE]),
    },
)
_orders = st.lists(
    st.builds(
        Order,
        st.sampled_from(OrderKind),
        st.lists(st.sampled_from(sorted(LEGACY)), min_size=1, unique=True).map(tuple),
        st.just("Ada"),
        st.just("why"),
    ),
    max_size=1,
)
_tick = st.fixed_dictionaries(
    {
        "days": st.sampled_from([0.0, 0.5, 3.0, 14.0, 30.0]),
        "producing": st.sampled_from([True, True, True, False]),
        "orders": st.one_of(st.just([]), st.just([]), st.just([]), _orders),
        "approve": st.sampled_from([True, True, True, False]),
        "second": st.booleans(),
        "sick": st.one_of(
            st.just({}), st.just({}), st.just({}), st.dictionaries(st.sampled_from(sorted(LEGACY)), _health, max_size=2)
        ),
    }
)


class TestLaws:
    @settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        ticks=st.lists(_tick, min_size=1, max_size=25),
        scope=st.sampled_from(["class", "wave"]),
        without=st.sampled_from([(), ("gear",)]),
    )
    def test_no_sequence_of_ticks_breaks_a_law(
        self, params: Params, ticks: list[dict[str, object]], scope: str, without: tuple[str, ...]
    ) -> None:
        """No illegal move, no lost class, no move against a guard or without a word, replay = state."""
        factory = Factory(params, rollback_scope=scope)
        if without:
            legacy = {name: model for name, model in LEGACY.items() if name not in without}
            factory.state, events = begin(
                [["bolt", "nut"], ["gear"]], legacy, FIRST, START, "Ada", without_legacy=without
            )
            factory.events = list(events)
        for tick in ticks:
            before = factory.state
            factory.producing, factory.approve = bool(tick["producing"]), bool(tick["approve"])
            factory.challenger = SECOND if tick["second"] else FIRST
            factory.tick(float(tick["days"]), tick["orders"], **tick["sick"])  # type: ignore[arg-type]
            _check_laws(before, factory)


def _check_laws(before: RolloutState, factory: Factory) -> None:
    after, result = factory.state, factory.last
    assert result is not None
    assert [cls.class_name for cls in after.classes] == [cls.class_name for cls in before.classes]
    changed = [event.after.class_name for event in result.events]
    assert len(set(changed)) == len(changed)  # one event a class and tick
    for old, new in zip(before.classes, after.classes, strict=True):
        _check_class(old, new, factory, result)
        tripped = [g for g in result.guards.get(old.class_name, ()) if g.active and g.hard]
        if tripped and old.standing not in WITHOUT_LEGACY:
            assert new.phase is Phase.ROLLED_BACK  # whatever else happens at this tick


def _check_class(old: ClassState, new: ClassState, factory: Factory, result: RolloutStep) -> None:
    if old.phase is not new.phase:
        check_move(old.class_name, old.phase, new.phase)
        if new.phase in (*FORWARD, Phase.ALONE) and old.phase in FORWARD and old.phase is not Phase.LEGACY_DELETED:
            active = [g.reason for g in result.guards.get(old.class_name, ()) if g.active]
            assert not active, f"moved on against {active}"
            assert factory.approve or new.phase not in factory.policy.approvals
        if old.phase is Phase.ROLLED_BACK:
            assert new.candidate != old.candidate
    elif old.phase is not Phase.LEGACY:
        assert new.candidate == old.candidate
    assert new.legacy == old.legacy or new.legacy == old.candidate
    assert (new.share > 0) == (new.standing in TAKEN_OVER | {Phase.CANARY})
    assert new.standing in CANDIDATE_JUDGES or new.share == 0
    assert (new.evidence_since is not None) == (new.standing in CANDIDATE_JUDGES)


class TestAClassThatIsRetired:
    def test_it_is_gone_and_its_history_stays(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        done = retire(factory.state, factory.state.of("bolt"), factory.now, "Ada", "made no more")
        factory.take((done.state, done.events))
        assert [cls.class_name for cls in factory.state.classes] == ["nut", "gear"]
        assert factory.state.retired_names == {"bolt"}
        assert (done.events[0].source, done.events[0].after.phase) == (Phase.LIVE, Phase.RETIRED)
        assert done.reason == "Ada: made no more"
        assert {action.kind for action in done.actions} == {ActionKind.ARCHIVE_LEGACY, ActionKind.NOTIFY}
        factory.run_to("gear", Phase.LEGACY_DELETED)  # nothing waits for the bolt
        with pytest.raises(ValueError, match="class 'bolt' is retired"):
            factory.state.of("bolt")

    def test_the_last_that_was_not_taken_over_makes_the_others_champions(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.SHADOW)
        done = retire(factory.state, factory.state.of("gear"), factory.now, "Ada", "made no more")
        assert ActionKind.PROMOTE in {action.kind for action in done.actions}

    def test_a_class_that_is_held_or_has_no_legacy_model_left_can_be_retired(self, factory: Factory) -> None:
        factory.tick(0.1, [Order(OrderKind.HOLD, ("gear",), "Ada", "wait")])
        done = retire(factory.state, factory.state.of("gear"), factory.now, "Ada", "made no more")
        factory.take((done.state, done.events))
        factory.run_to("bolt", Phase.LEGACY_DELETED)
        done = retire(factory.state, factory.state.of("bolt"), factory.now, "Ada", "made no more")
        assert [action.kind for action in done.actions] == [ActionKind.NOTIFY]

    def test_it_can_be_planned_or_enrolled_again_as_a_new_class(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        for name in ("bolt", "nut"):
            done = retire(factory.state, factory.state.of(name), factory.now, "Ada", "made no more")
            factory.take((done.state, done.events))
        factory.take(begin([["bolt"]], LEGACY, FIRST, factory.now, "Ada", factory.state))
        new = factory.state.of("bolt")
        assert (new.phase, new.share, new.evidence_since, new.wave) == (Phase.LEGACY, 0.0, None, 3)
        factory.events += join(factory.state, "nut", "starter", factory.now, "enrolment")
        assert replay(factory.events).of("nut").phase is Phase.LEGACY
        assert replay(factory.events).retired == ()

    def test_an_order_for_a_class_that_was_retired_since_stops_no_tick(self, factory: Factory) -> None:
        done = retire(factory.state, factory.state.of("gear"), factory.now, "Ada", "made no more")
        factory.take((done.state, done.events))
        factory.tick(1, [Order(OrderKind.HOLD, ("gear", "bolt"), "Ada", "wait")])
        assert factory.state.of("bolt").phase is Phase.HELD
