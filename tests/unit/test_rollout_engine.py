"""The rollout engine: stories, each guard firing, and laws that no sequence of ticks may break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shadowline.params import Params
from shadowline.rollout.engine import ActionKind, Policy, Step, begin, join, step
from shadowline.rollout.guards import check_guards
from shadowline.rollout.observation import (
    Approval,
    ChecklistItem,
    ClassObservation,
    Observation,
    Order,
    OrderKind,
)
from shadowline.rollout.phases import CANDIDATE_JUDGES, FORWARD, LEGAL_MOVES, TAKEN_OVER, Phase, check_move
from shadowline.rollout.state import ClassState, Event, RolloutState, replay
from shadowline.shadow import ALARM, ANOMALOUS, NO_ALARM, NORMAL, UNLABELLED, PairCounts, judge

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
LEGACY = {"bolt": "legacy-bolt", "nut": "legacy-nut", "gear": "legacy-gear"}
FIRST = {"bolt": "v1-bolt", "nut": "v1-nut", "gear": "v1-gear"}
SECOND = {"bolt": "v2-bolt", "nut": "v2-nut", "gear": "v2-gear"}
PEOPLE = frozenset(
    set(ChecklistItem) - {ChecklistItem.ALL_MIGRATED, ChecklistItem.PARALLEL_OPERATION}
)  # what people put on record


def pairs(agreeing: int = 300, only_candidate: int = 0, only_legacy: int = 0, *, label: int = UNLABELLED) -> PairCounts:
    cells = np.zeros((3, 2, 2), dtype=np.int64)
    cells[label, NO_ALARM, NO_ALARM] = agreeing
    cells[label, ALARM, NO_ALARM] = only_candidate
    cells[label, NO_ALARM, ALARM] = only_legacy
    return PairCounts(cells)


class Factory:
    """A story-teller: one call of `tick` a day, then look at phases and shares."""

    def __init__(self, params: Params, waves: Sequence[Sequence[str]] = (("bolt", "nut"), ("gear",)), **policy: object):
        self.params = params
        rollout = params.rollout.model_copy(update=policy)
        self.policy = Policy(rollout, params.shadow.confidence)
        self.now, self.challenger = START, FIRST
        self.state, events = begin(waves, LEGACY, FIRST, START, "Ada")
        self.events: list[Event] = list(events)
        self.approve = True
        self.last: Step | None = None

    def seen(self, one: ClassState, **changes: object) -> ClassObservation:
        good = ClassObservation(
            class_name=one.class_name,
            observed_at=self.now,
            legacy=one.legacy,
            candidate=one.candidate,
            verdict=judge(pairs(), one.since, self.now, self.params.shadow),
            window=pairs(),
            num_judged=300,
            num_failed=0,
            num_dropped=0,
            p95_latency_ms=80.0,
            num_false_alarms=1,
            num_misses=1,
            evidence=PEOPLE,
        )
        return replace(good, **changes)  # type: ignore[arg-type]

    def tick(
        self, days: float = 1.0, orders: Sequence[Order] = (), **changes: Mapping[str, object]
    ) -> dict[str, tuple[Phase, float]]:
        """One tick `days` later; `bolt={"num_failed": 9}` changes what is seen of the bolt."""
        self.now += timedelta(days=days)
        classes = tuple(self.seen(one, **changes.get(one.class_name, {})) for one in self.state.classes)
        approvals = tuple(
            Approval(one.class_name, target, one.legacy, one.candidate, "Ada")
            for one in self.state.classes
            for target in (FORWARD if self.approve else ())
        )
        observation = Observation(self.now, self.challenger, classes, tuple(orders), approvals)
        self.last = step(self.state, observation, self.policy)
        self.state = self.last.state
        self.events += self.last.events
        assert replay(self.events) == self.state
        return {one.class_name: (one.phase, one.share) for one in self.state.classes}

    def run_days(self, days: int) -> None:
        for _ in range(days):
            self.tick()

    def run_to(self, class_name: str, phase: Phase) -> None:
        for _ in range(400):
            if self.state.of(class_name).phase is phase:
                return
            self.tick()
        raise AssertionError(f"{class_name} never reached {phase}: {self.last and self.last.reason}")


@pytest.fixture
def factory(params: Params) -> Factory:
    return Factory(params)


class TestTheTableOfLegalMoves:
    LEGAL = """
        legacy > shadow held
        shadow > canary rolled_back held
        canary > live rolled_back held
        live > legacy_read_only rolled_back held
        legacy_read_only > legacy_off rolled_back held
        legacy_off > legacy_deleted rolled_back held
        legacy_deleted > shadow
        rolled_back > shadow
        held > legacy shadow canary live legacy_read_only legacy_off rolled_back
    """

    @pytest.mark.parametrize("source", list(Phase))
    @pytest.mark.parametrize("target", list(Phase))
    def test_every_pair_of_phases_is_legal_or_refused(self, source: Phase, target: Phase) -> None:
        lines = (line.split(">") for line in self.LEGAL.split("\n") if ">" in line)
        legal = {Phase(left.strip()): {Phase(word) for word in right.split()} for left, right in lines}
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
        factory.tick(3)
        assert factory.state.of("bolt").share == 0.5
        factory.tick(3)
        assert factory.state.of("bolt").phase is Phase.LIVE
        assert factory.state.of("gear").phase is Phase.LEGACY
        factory.tick(13)
        assert factory.state.of("gear").phase is Phase.LEGACY  # two weeks of stabilisation first
        factory.run_to("gear", Phase.LEGACY_DELETED)
        assert {one.phase for one in factory.state.classes} == {Phase.LEGACY_DELETED}

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
        lacking = {"verdict": judge(pairs(10), START, factory.now, factory.params.shadow)}
        for _ in range(60):
            factory.tick(nut=lacking)
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
        factory.run_to("bolt", Phase.LEGACY_OFF)
        factory.approve = False
        claims = {"evidence": frozenset(ChecklistItem)}
        factory.tick(1, gear={"verdict": judge(pairs(10), START, START, factory.params.shadow)})
        factory.approve = True
        gear = {"verdict": judge(pairs(10), START, START, factory.params.shadow)}
        for _ in range(40):
            factory.tick(1, bolt=claims, nut=claims, gear=gear)
        assert factory.state.of("gear").phase in {Phase.LEGACY, Phase.SHADOW}
        assert factory.state.of("bolt").phase is Phase.LEGACY_OFF


FIRES = {
    "agreement": {"window": pairs(200, 50, 50)},
    "drift": {"window": pairs(400, 40, 0)},
    "false_alarms": {"num_false_alarms": 50},
    "misses": {"num_misses": 30},
    "lost_defects": {"window": pairs(300, 0, 7, label=ANOMALOUS)},
    "errors": {"num_failed": 20},
    "latency": {"p95_latency_ms": 151.0},
    "silence": {"num_judged": 19},
    "dropped": {"num_dropped": 30},
}
COMPARING = {"agreement", "drift", "lost_defects"}  # candidate against legacy model
HARD = {"agreement", "drift", "false_alarms", "misses", "lost_defects", "errors"}


class TestGuards:
    def test_a_healthy_class_trips_none(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        one = factory.state.of("bolt")
        found = check_guards(one, factory.seen(one), factory.now, factory.policy.rollout, 0.95)
        assert {guard.name for guard in found} == set(FIRES)
        assert not [guard.reason for guard in found if guard.tripped]

    @pytest.mark.parametrize("name", sorted(FIRES))
    def test_each_fires_alone(self, factory: Factory, name: str) -> None:
        factory.run_to("bolt", Phase.CANARY)
        one = factory.state.of("bolt")
        seen = factory.seen(one, **FIRES[name])
        found = check_guards(one, seen, factory.now, factory.policy.rollout, 0.95)
        assert {guard.name for guard in found if guard.tripped} == {name}
        assert {guard.hard for guard in found if guard.tripped} == {name in HARD}

    @pytest.mark.parametrize("name", sorted(HARD))
    @pytest.mark.parametrize("phase", [Phase.SHADOW, Phase.CANARY, Phase.LIVE, Phase.LEGACY_READ_ONLY])
    def test_a_hard_one_takes_the_class_back_at_once_and_no_other(
        self, factory: Factory, name: str, phase: Phase
    ) -> None:
        compares_too_early = phase is Phase.SHADOW and name in COMPARING
        factory.run_to("bolt", phase)
        nut = factory.state.of("nut")
        after = factory.tick(0.1, bolt=FIRES[name])
        if compares_too_early:  # the verdict of shadow mode compares there
            assert after["bolt"] == (Phase.SHADOW, 0.0)
        else:
            assert after["bolt"] == (Phase.ROLLED_BACK, 0.0)
            assert factory.state.of("bolt").reason.startswith(name)
        assert after["nut"] == (nut.phase, nut.share)

    @pytest.mark.parametrize("name", sorted(set(FIRES) - HARD))
    def test_a_soft_one_spends_the_budget_first(self, factory: Factory, name: str) -> None:
        factory.run_to("bolt", Phase.CANARY)
        budget = factory.policy.rollout.soft_budget
        for spent in range(1, budget + 1):
            factory.tick(0.1, bolt=FIRES[name])
            assert factory.state.of("bolt").soft_failures == spent
            assert factory.state.of("bolt").last_failure.startswith(name)
        assert factory.state.of("bolt").phase is Phase.CANARY
        factory.tick(0.1, bolt=FIRES[name])
        assert factory.state.of("bolt").phase is Phase.ROLLED_BACK

    def test_a_failing_soft_one_keeps_the_class_from_moving_on(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(5, bolt=FIRES["latency"])
        assert factory.state.of("bolt").share == 0.1

    def test_a_handful_of_pairs_takes_nothing_back(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        few = {"window": pairs(0, 19, 0), "num_judged": 10, "num_failed": 9, "num_false_alarms": 10, "num_misses": 10}
        factory.tick(0.1, bolt=few)
        assert factory.state.of("bolt").phase is Phase.CANARY
        assert factory.state.of("bolt").soft_failures == 1

    def test_drift_that_proves_the_candidate_right_trips_nothing(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(0.1, bolt={"window": pairs(270, 60, 0, label=ANOMALOUS) + pairs(270, 0, 60, label=NORMAL)})
        assert factory.state.of("bolt").phase is Phase.CANARY

    def test_drift_trips_in_both_directions(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(0.1, bolt={"window": pairs(400, 0, 40)})
        assert factory.state.of("bolt").reason.startswith("drift")

    @pytest.mark.parametrize(
        "change", [{"observed_at": START}, {"candidate": "another"}, {"legacy": "another"}], ids=lambda c: next(iter(c))
    )
    def test_evidence_that_is_stale_or_of_other_models_is_silence(
        self, factory: Factory, change: dict[str, object]
    ) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(0.1, bolt=change)
        assert factory.state.of("bolt").soft_failures == 1

    def test_no_observation_is_silence(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        result = step(factory.state, Observation(factory.now, FIRST), factory.policy)
        assert result.state.of("bolt").soft_failures == 1

    def test_a_wave_goes_back_together_when_the_policy_says_so(self, params: Params) -> None:
        factory = Factory(params, rollback_scope="wave")
        factory.run_to("bolt", Phase.CANARY)
        after = factory.tick(0.1, bolt=FIRES["errors"])
        assert {after["bolt"], after["nut"]} == {(Phase.ROLLED_BACK, 0.0)}
        assert factory.state.of("nut").reason == "wave 1 goes back with bolt"


class TestRollbackAndRecovery:
    def test_what_failed_stays_failed_until_the_candidate_changes(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(0.1, bolt=FIRES["errors"])
        for _ in range(60):
            factory.tick()
        assert factory.state.of("bolt").phase is Phase.ROLLED_BACK
        factory.challenger = SECOND
        factory.tick()
        one = factory.state.of("bolt")
        assert (one.phase, one.candidate) == (Phase.SHADOW, SECOND["bolt"])

    def test_a_candidate_that_loses_defects_is_out_before_it_answers(self, factory: Factory) -> None:
        """It agrees on 97 % of the images, nearly all of them good; of the defects it loses nine and gains one."""
        factory.tick()
        counts = pairs(290) + pairs(0, 1, 9, label=ANOMALOUS)
        failed = judge(counts, START, START + timedelta(days=40), factory.params.shadow)
        factory.tick(40, bolt={"verdict": failed})
        assert factory.state.of("bolt").phase is Phase.ROLLED_BACK
        assert (
            "9 defects that only the legacy model found, 1 that only the candidate did"
            in factory.state.of("bolt").reason
        )
        assert factory.state.of("nut").phase is Phase.SHADOW

    def test_a_wave_with_a_failed_class_holds_the_next_wave(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LIVE)
        factory.tick(0.1, nut=FIRES["errors"])
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
        assert one.parallel_since == factory.now  # the weeks beside the model before do not count

    def test_one_that_fails_leaves_the_class_with_what_lived(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.LEGACY_DELETED)
        factory.challenger = {**FIRST, "bolt": SECOND["bolt"]}
        factory.tick()
        assert factory.tick(0.1, bolt=FIRES["errors"])["bolt"] == (Phase.ROLLED_BACK, 0.0)
        assert factory.state.of("bolt").legacy == FIRST["bolt"]
        factory.run_days(60)
        assert factory.state.of("bolt").phase is Phase.ROLLED_BACK

    def test_it_is_tried_at_once_by_whoever_lives_and_whoever_was_taken_back(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.LEGACY_DELETED)
        factory.tick(0.1, [Order(OrderKind.ROLL_BACK, ("gear",), "Ada", "customer complaint")])
        factory.challenger = SECOND
        assert factory.tick() == dict.fromkeys(("bolt", "nut", "gear"), (Phase.SHADOW, 0.0))
        legacy = {one.class_name: one.legacy for one in factory.state.classes}
        assert legacy == {"bolt": FIRST["bolt"], "nut": FIRST["nut"], "gear": LEGACY["gear"]}

    def test_it_goes_all_the_way_again(self, factory: Factory) -> None:
        factory.run_to("gear", Phase.LEGACY_DELETED)
        factory.challenger = SECOND
        factory.tick()
        factory.run_to("gear", Phase.LEGACY_DELETED)
        assert {one.candidate for one in factory.state.classes} == set(SECOND.values())


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
        assert [(one.class_name, one.wave) for one in state.classes] == [("cap", 0), ("bolt", 1), ("nut", 2)]

    def test_a_second_migration_is_refused(self, factory: Factory) -> None:
        with pytest.raises(ValueError, match="on record already"):
            begin([["washer"]], {"washer": "l"}, {"washer": "c"}, START, "Ada", factory.state)

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
        assert factory.now - factory.state.of("bolt").since == timedelta(days=1)

    def test_a_hard_guard_acts_while_held(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(1, [Order(OrderKind.HOLD, ("bolt",), "Ada", "wait")])
        factory.tick(1, bolt=FIRES["errors"])
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


class TestReplay:
    @pytest.mark.parametrize("victim", [0, 3, 5])
    def test_a_missing_event_is_found(self, factory: Factory, victim: int) -> None:
        factory.run_to("bolt", Phase.CANARY)
        with pytest.raises(ValueError, match="missing"):
            replay([event for index, event in enumerate(factory.events) if index != victim])

    def test_states_survive_json(self, factory: Factory) -> None:
        factory.run_to("bolt", Phase.CANARY)
        factory.tick(1, [Order(OrderKind.HOLD, ("bolt",), "Ada", "wait")])
        for one in factory.state.classes:
            assert ClassState.from_dict(one.to_dict()) == one


# --- laws -------------------------------------------------------------------------------------------------------

_health = st.fixed_dictionaries(
    {},
    optional={
        "window": st.builds(pairs, st.integers(0, 400), st.integers(0, 60), st.integers(0, 60)),
        "num_judged": st.integers(60, 400),
        "num_failed": st.integers(0, 10),
        "num_dropped": st.integers(0, 30),
        "p95_latency_ms": st.none() | st.floats(1, 300),
        "candidate": st.sampled_from(["v1-bolt", "v9"]),
        "num_false_alarms": st.integers(0, 60),
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
        "orders": st.one_of(st.just([]), st.just([]), st.just([]), _orders),
        "approve": st.sampled_from([True, True, True, False]),
        "second": st.booleans(),
        "sick": st.one_of(
            st.just({}), st.just({}), st.just({}), st.dictionaries(st.sampled_from(sorted(LEGACY)), _health, max_size=2)
        ),
    }
)


class TestLaws:
    @settings(max_examples=25 * settings().max_examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ticks=st.lists(_tick, min_size=1, max_size=25), scope=st.sampled_from(["class", "wave"]))
    def test_no_sequence_of_ticks_breaks_a_law(
        self, params: Params, ticks: list[dict[str, object]], scope: str
    ) -> None:
        """No illegal move, no lost class, no promotion without evidence, at most one phase a tick, replay = state."""
        factory = Factory(params, rollback_scope=scope)
        for tick in ticks:
            before = factory.state
            factory.approve = bool(tick["approve"])
            factory.challenger = SECOND if tick["second"] else FIRST
            factory.tick(float(tick["days"]), tick["orders"], **tick["sick"])  # type: ignore[arg-type]
            _check_laws(before, factory, tick)


def _check_laws(before: RolloutState, factory: Factory, tick: dict[str, object]) -> None:
    after, result = factory.state, factory.last
    assert result is not None
    assert [one.class_name for one in after.classes] == [one.class_name for one in before.classes]
    moves = set()
    for old, new in zip(before.classes, after.classes, strict=True):
        if old.phase is not new.phase:
            check_move(old.class_name, old.phase, new.phase)
            moves.add((old.phase, new.phase))
            if new.phase in FORWARD and old.phase in FORWARD:
                tripped = [g.reason for g in result.guards.get(old.class_name, ()) if g.tripped]
                assert not tripped, f"moved on against {tripped}"
                assert factory.approve or new.phase not in factory.policy.rollout.approvals
            if old.phase is Phase.ROLLED_BACK:
                assert new.candidate != old.candidate
        answers = new.standing in TAKEN_OVER | {Phase.CANARY}
        assert (new.share > 0) == answers
        assert new.standing in CANDIDATE_JUDGES or new.share == 0
    again = moves & {(Phase.ROLLED_BACK, Phase.SHADOW), (Phase.LEGACY_DELETED, Phase.SHADOW)}
    forward = {move for move in moves - again if move[0] in FORWARD and move[1] in FORWARD}
    assert len(forward) <= 1
    assert not forward or forward == moves
    assert not again or again == moves
