"""Laws of time, on evidence as the gateway would record it: no clock and no schedule of ticks decides anything.

What is guaranteed, for every evidence and every schedule of ticks (`watch` is a tick every quarter of an hour, which is
proven to be as good as one every second):

    A tick makes the moves that a watch from the same state on would have made by then, each class its first one. The
    first of them are made at the first tick after the watch would have made them, unless a guard has tripped since
    then, which may bar the way or take a class back. What a guard proves takes the class back at the first tick after
    the quarter of an hour in which it was proven.

Days of a phase count from the move that was really made, as the candidate did not answer before, and production days
from the first image after a candidate entered shadow mode. So a late tick can prolong a phase: by its own lateness,
the rest of a production day, and a day at the end of which other labels are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from fixtures.learning import project_params
from shadowline.core.params import Params
from shadowline.evaluation.evidence import EvidenceTable, slot_of, start_of
from shadowline.rollout.engine import ActionKind, RolloutStep, begin
from shadowline.rollout.phases import LEGAL_MOVES, TAKEN_OVER, Phase
from shadowline.rollout.rehearsal import (
    Line,
    Reviews,
    SimulatedCandidate,
    from_entry,
    rehearse,
    simulate_rollout,
    since_entry,
)
from shadowline.rollout.state import Event, RolloutState, replay

QUARTER, HOUR, DAY = timedelta(minutes=15), timedelta(hours=1), timedelta(days=1)
LINE = Line(parts_per_day=48, defect_rate=0.25, references_per_day=12)
BATCH = 48  # slots: parts come at 6 and at 18 o'clock, and are labelled twelve hours later
NUM_DAYS = 26
GOOD = SimulatedCandidate(shared=1.0)
BAD = {
    "misses": replace(GOOD, shared=0.0, missed=0.7),
    "misses later": replace(GOOD, shared=0.0, missed=0.9, from_day=6),
    "false alarms later": replace(GOOD, shared=0.0, false_alarms=0.5, from_day=5),
    "fails later": replace(GOOD, failed=0.3, from_day=7),
    "fails at times": replace(GOOD, failed=0.03),
    "slightly worse": replace(GOOD, shared=0.6, missed=0.2, false_alarms=0.05),
}
QUICK_SHADOW = {
    "min_pairs": 60,
    "min_days": 3,
    "min_agreement": 0.9,
    "min_alarms": 3,
    "min_labelled_alarms": 3,
    "review_days": 1,
    "max_lost_share": 0.3,
}
QUICK_ROLLOUT = {
    "canary_days": 1,
    "stabilisation_days": 2,
    "read_only_days": 1,
    "off_days": 2,
    "parallel_days": 5,
    "window_days": 3,
}
slow = settings(max_examples=examples(2), deadline=None, suppress_health_check=list(HealthCheck))

Move = tuple[str, Phase, float]  # class, phase and share that it comes to


def mapped(evidence: EvidenceTable, of: Callable[[np.ndarray], np.ndarray]) -> EvidenceTable:
    """The same evidence at other slots."""
    return replace(evidence, slot=of(evidence.slot), received=of(evidence.received))


@cache
def table(candidate: SimulatedCandidate, seed: int) -> EvidenceTable:
    found = rehearse(LINE, candidate, Reviews(delay_slots=BATCH), NUM_DAYS, seed)
    first = int(found.received.min())
    return mapped(found, lambda slots: first + (slots - first) // BATCH * BATCH)


START = start_of(int(table(GOOD, 0).received.min()))


@dataclass(frozen=True)
class World:
    """A rollout that begins, and all evidence that there will ever be."""

    state: RolloutState
    tables: Mapping[str, EvidenceTable]  # by fingerprint of the candidate
    challenger: Mapping[str, str]
    scope: str = "class"
    from_entry: bool = False  # each table begins when its candidate does; otherwise all have one calendar
    start: datetime = START

    def simulate_rollout(
        self, ticks: Iterable[datetime], state: RolloutState | None = None
    ) -> Iterator[tuple[datetime, RolloutStep]]:
        params = project_params()
        shadow = params.shadow.model_copy(update=QUICK_SHADOW)
        policy = params.rollout.model_copy(update={**QUICK_ROLLOUT, "rollback_scope": self.scope})
        source = (from_entry if self.from_entry else since_entry)(self.tables)
        return simulate_rollout(state or self.state, source, self.challenger, ticks, shadow, policy)

    def watch(self, since: datetime, state: RolloutState) -> Iterator[tuple[datetime, RolloutStep]]:
        """A tick at every end of a quarter of an hour after `since`."""
        first = slot_of(since) + 1
        return self.simulate_rollout(
            (start_of(slot) for slot in range(first, slot_of(self.start) + 96 * NUM_DAYS)), state
        )


def world(
    candidates: Mapping[str, SimulatedCandidate], waves: Sequence[Sequence[str]], seed: int = 0, **more: object
) -> World:
    names = sorted(candidates)
    legacy, challenger = {name: f"legacy-{name}" for name in names}, {name: f"v1-{name}" for name in names}
    state, _ = begin(waves, legacy, challenger, START, "Ada")
    tables = {
        f"v1-{name}": table(candidate, seed + number)
        for number, (name, candidate) in enumerate(sorted(candidates.items()))
    }
    return World(state, tables, challenger, **more)  # type: ignore[arg-type]


def moves_of(before: RolloutState, result: RolloutStep) -> set[Move]:
    """Changes of phase and share; what people are told is none."""
    return {
        (new.class_name, new.phase, new.share)
        for new in result.state.classes
        if (new.phase, new.share) != ((old := before.of(new.class_name)).phase, old.share)
    }


def story(begun: RolloutState, steps: Iterable[tuple[datetime, RolloutStep]]) -> list[tuple[datetime, set[Move]]]:
    """The ticks that moved something."""
    found, before = [], begun
    for now, result in steps:
        if moves := moves_of(before, result):
            found.append((now, moves))
        before = result.state
    return found


def per_class(told: Iterable[tuple[datetime, set[Move]]]) -> dict[str, list[tuple[datetime, Phase, float]]]:
    found: dict[str, list[tuple[datetime, Phase, float]]] = {}
    for now, moves in told:
        for name, phase, share in moves:
            found.setdefault(name, []).append((now, phase, share))
    return found


def every(gap: timedelta, days: float, offset: timedelta = timedelta(0)) -> list[datetime]:
    return [START + offset + number * gap for number in range(int(days * DAY / gap))]


@dataclass(frozen=True)
class Schedule:
    """Regular ones from a quarter of an hour to a day, irregular ones, and a week without a tick."""

    kind: str
    offset: timedelta
    seed: int

    @property
    def ticks(self) -> list[datetime]:
        if self.kind == "irregular":
            hours = np.cumsum(np.random.default_rng(self.seed).uniform(0, 48, size=NUM_DAYS))
            return [START + float(at) * HOUR for at in hours if at < 24 * NUM_DAYS]
        if self.kind == "a week without":
            stop = START + self.seed * HOUR
            return [at for at in every(HOUR, NUM_DAYS - 1, self.offset) if not stop <= at < stop + 7 * DAY]
        return every({"quarter": QUARTER, "hour": HOUR, "day": DAY}[self.kind], NUM_DAYS - 1, self.offset)


schedules = st.builds(
    Schedule,
    st.sampled_from(["quarter", "hour", "day", "irregular", "a week without"]),
    st.integers(0, 86_400).map(lambda seconds: timedelta(seconds=seconds)),
    st.integers(0, 400),
)


def check_guarantee(one: World, ticks: Sequence[datetime]) -> list[tuple[datetime, set[Move]]]:
    """Holds the schedule against a watch from each state that it reaches; see the head of this file."""
    steps = list(one.simulate_rollout(ticks))
    state, since = one.state, one.start - QUARTER
    for last, (now, result) in zip([since, *ticks], steps, strict=False):
        _check_rollbacks(state, result, last, now)
        if not (moves := moves_of(state, result)):
            state = result.state
            continue
        first, due = _due_until(one, state, since, now)
        crossed = {at for guards in result.guards.values() for guard in guards for at in guard.crossed_at}
        disturbed = first is None or any(first < at <= now for at in crossed)
        if not disturbed:
            assert first is not None and now == min(tick for tick in ticks if tick >= first)
            assert {move for at, move in due if at == first} <= moves <= {move for _, move in due}
        else:
            assert {name for name, phase, _ in moves if phase is Phase.ROLLED_BACK} or moves <= {m for _, m in due}
        state, since = result.state, now
    assert replay(_all_events(one, steps)).classes == state.classes
    return story(one.state, steps)


def _due_until(
    one: World, state: RolloutState, since: datetime, until: datetime
) -> tuple[datetime | None, set[tuple[datetime, Move]]]:
    """When a watch would have moved something first, and the first move of each class until then, with its time."""
    due: dict[str, tuple[datetime, Move]] = {}
    before = state
    for now, result in one.watch(since, state):
        if now > until:
            break
        for move in moves_of(before, result):
            due.setdefault(move[0], (now, move))
        before = result.state
    return min((at for at, _ in due.values()), default=None), set(due.values())


def _check_rollbacks(before: RolloutState, result: RolloutStep, last: datetime, now: datetime) -> None:
    """Whoever is taken back by a guard was fine at the tick before; whoever is not has no hard guard tripped."""
    for old in before.classes:
        proven = [guard.crossed_at[0] for guard in result.guards.get(old.class_name, ()) if guard.hard and guard.active]
        if proven and Phase.ROLLED_BACK in LEGAL_MOVES[old.phase]:
            assert result.state.of(old.class_name).phase is Phase.ROLLED_BACK
            assert slot_of(last) < slot_of(min(proven)) <= slot_of(now) or old.since >= last


def _all_events(one: World, steps: Iterable[tuple[datetime, RolloutStep]]) -> list[Event]:
    """Numbered from 1 on, as if the rollout had begun where it stood."""
    first = [Event(0, one.start, "Ada", None, known) for known in one.state.classes]
    events = [*first, *(event for _, result in steps for event in result.events)]
    return [replace(event, revision=number) for number, event in enumerate(events, start=1)]


ALL_GOOD = {"bolt": GOOD, "nut": GOOD, "gear": GOOD}
TWO_WAVES = (("bolt", "nut"), ("gear",))


@cache
def watched() -> list[tuple[datetime, set[Move]]]:
    one = world(ALL_GOOD, TWO_WAVES)
    return story(one.state, one.watch(START - QUARTER, one.state))


class TestHowOftenTheEngineLooks:
    def test_a_watch_takes_good_candidates_to_the_end(self) -> None:
        assert {name: moves[-1][1] for name, moves in per_class(watched()).items()} == dict.fromkeys(
            ALL_GOOD, Phase.LEGACY_DELETED
        )

    def test_weighing_again_what_has_not_changed_changes_nothing(self) -> None:
        """`simulate_rollout` leaves it out; here every tick weighs everything anew."""
        one = world({"bolt": BAD["slightly worse"]}, [["bolt"]])
        ticks = every(timedelta(minutes=50), 5)
        before = one.state
        for now, result in one.simulate_rollout(ticks):
            ((_, anew),) = one.simulate_rollout([now], before)
            assert anew == result
            before = result.state

    @pytest.mark.parametrize("gap", [timedelta(minutes=5), timedelta(minutes=1)])
    def test_looking_more_often_than_every_quarter_of_an_hour_is_of_no_use(self, gap: timedelta) -> None:
        one = world({"bolt": GOOD}, [["bolt"]])
        assert story(one.state, one.simulate_rollout(every(gap, 4.1))) == story(
            one.state, one.simulate_rollout(every(QUARTER, 4.1))
        )

    def test_every_second_of_an_hour_moves_once_and_at_the_end_of_the_production_day(self) -> None:
        one = world({"bolt": GOOD}, [["bolt"]])
        (_, entered), *_ = one.simulate_rollout([START])
        ticks = [START + 3 * DAY - HOUR / 2 + timedelta(seconds=second) for second in range(3600)]
        assert story(entered.state, one.simulate_rollout(ticks, entered.state)) == [
            (START + 3 * DAY, {("bolt", Phase.CANARY, 0.1)})
        ]

    @slow
    @given(schedule=schedules, relative=st.booleans(), seed=st.integers(0, 3))
    def test_good_candidates_make_the_same_moves_in_the_same_order(
        self, schedule: Schedule, relative: bool, seed: int
    ) -> None:
        told = check_guarantee(world(ALL_GOOD, TWO_WAVES, seed, from_entry=relative), schedule.ticks)
        ticks = schedule.ticks
        gap = max(later - earlier for earlier, later in zip([START, *ticks], ticks, strict=False))
        for name, moves in per_class(told).items():
            ideal = per_class(watched())[name]
            assert [move[1:] for move in moves] == [move[1:] for move in ideal[: len(moves)]]
            for number, (at, wanted) in enumerate(zip(moves, ideal, strict=False), start=1):
                assert timedelta(0) <= at[0] - wanted[0] <= 3 * number * (gap + DAY)  # 3: it waits for other classes

    @pytest.mark.parametrize("offset", [timedelta(minutes=7), timedelta(minutes=37)])
    def test_with_hourly_ticks_no_delay_adds_up(self, offset: timedelta) -> None:
        """A class is late by a tick and, for each wave, by the pause until the image that begins its first day, and by
        a day: where days end at another hour, other labels are known at their ends. The number of moves does not count.
        """
        one = world(ALL_GOOD, TWO_WAVES)
        told = per_class(story(one.state, one.simulate_rollout(every(HOUR, 22, offset))))
        for name, ideal in per_class(watched()).items():
            assert [move[1:] for move in told[name]] == [move[1:] for move in ideal][: len(told[name])]
            num_waves = 2 if name == "gear" else 1
            late = max(at[0] - wanted[0] for at, wanted in zip(told[name], ideal, strict=False))
            assert late <= HOUR + num_waves * (BATCH * QUARTER + DAY)

    @slow
    @given(
        schedule=schedules,
        bad=st.sampled_from(sorted(BAD)),
        other=st.sampled_from([GOOD, BAD["fails later"]]),
        scope=st.sampled_from(["class", "wave"]),
        seed=st.integers(0, 3),
    )
    def test_bad_candidates_are_taken_back_at_the_first_tick_after_the_proof(
        self, schedule: Schedule, bad: str, other: SimulatedCandidate, scope: str, seed: int
    ) -> None:
        one = world({"bolt": BAD[bad], "nut": other, "gear": GOOD}, TWO_WAVES, seed, scope=scope)
        told = per_class(check_guarantee(one, schedule.ticks))
        if bad != "slightly worse" and bad != "fails at times":
            assert told["bolt"][-1][1] is Phase.ROLLED_BACK
            assert Phase.LEGACY_OFF not in {phase for _, phase, _ in told["bolt"]}
        if scope == "wave" and told["bolt"][-1][1] is Phase.ROLLED_BACK:
            assert told["nut"][-1][1] in {Phase.ROLLED_BACK} | TAKEN_OVER


class TestASuccessionAndAPlanThatGrows:
    @pytest.fixture(scope="class")
    def later(self) -> World:
        """The bolt has arrived, its successor is there, and two classes are planned, one without a legacy model."""
        first = world({"bolt": GOOD}, [["bolt"]])
        *_, (now, result) = first.simulate_rollout(every(timedelta(hours=12), 15))
        assert result.state.of("bolt").phase is Phase.LEGACY_DELETED
        state, _ = begin(
            [["lid"], ["gear"]], {"gear": "legacy-gear"}, {"lid": "v1-lid", "gear": "v1-gear"}, now, "Ada",
            result.state, without_legacy=["lid"],
        )  # fmt: skip
        tables = {**first.tables, "v1-lid": table(GOOD, 1), "v1-gear": table(GOOD, 2), "v2-bolt": table(GOOD, 3)}
        challenger = {"bolt": "v2-bolt", "lid": "v1-lid", "gear": "v1-gear"}
        return World(state, tables, challenger, from_entry=True, start=now)

    def test_they_arrive_by_themselves(self, later: World) -> None:
        *_, (_, result) = later.simulate_rollout(later.start + number * HOUR for number in range(24 * 21))
        assert {cls.class_name: cls.phase for cls in result.state.classes} == {
            "bolt": Phase.LEGACY_DELETED, "lid": Phase.ALONE, "gear": Phase.LEGACY_DELETED,
        }  # fmt: skip
        assert result.state.of("bolt").legacy == "v1-bolt"

    @slow
    @given(schedule=schedules)
    def test_they_keep_the_same_guarantee(self, later: World, schedule: Schedule) -> None:
        shift = later.start - START
        told = check_guarantee(later, [tick + shift for tick in schedule.ticks])
        assert {"bolt", "lid", "gear"} == set(per_class(told))

    def test_so_does_a_class_whose_second_candidate_is_good(self) -> None:
        one = world({"bolt": BAD["fails later"]}, [["bolt"]], from_entry=True)
        *_, (now, result) = one.simulate_rollout(every(HOUR, 12))
        assert result.state.of("bolt").phase is Phase.ROLLED_BACK
        second = replace(one, state=result.state, tables={"v2-bolt": table(GOOD, 1)}, challenger={"bolt": "v2-bolt"})
        second = replace(second, start=now)
        told = check_guarantee(second, [now + number * timedelta(hours=7) for number in range(60)])
        assert told[-1][1] == {("bolt", Phase.LEGACY_DELETED, 1.0)}


class TestClocks:
    TICKS = every(timedelta(hours=4), 14)

    @pytest.fixture(scope="class")
    def here(self) -> list[tuple[datetime, set[Move]]]:
        one = world({"bolt": GOOD}, [["bolt"]])
        return story(one.state, one.simulate_rollout(self.TICKS))

    @slow
    @given(slots=st.integers(-400_000, 400_000))
    def test_a_shift_by_any_quarter_of_an_hour_shifts_the_moves(
        self, here: list[tuple[datetime, set[Move]]], slots: int
    ) -> None:
        one, shift = world({"bolt": GOOD}, [["bolt"]]), slots * QUARTER
        tables = {name: mapped(each, lambda at: at + slots) for name, each in one.tables.items()}
        state, _ = begin([["bolt"]], {"bolt": "legacy-bolt"}, one.challenger, START + shift, "Ada")
        moved = replace(one, state=state, tables=tables)
        assert story(state, moved.simulate_rollout(tick + shift for tick in self.TICKS)) == [
            (at + shift, moves) for at, moves in here
        ]

    @pytest.mark.parametrize("date", ["2026-03-04", "2026-03-25", "2026-10-28", "2026-10-21"])  # the clocks change
    @pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Seoul", "Asia/Kathmandu"])
    def test_no_time_zone_has_a_say(self, zone: str, date: str) -> None:
        slots = slot_of(datetime.fromisoformat(f"{date}T06:00+00:00")) - slot_of(START)
        one = world({"bolt": GOOD}, [["bolt"]])
        tables = {name: mapped(each, lambda at: at + slots) for name, each in one.tables.items()}

        def told(by: tzinfo) -> list[Event]:
            start = (START + slots * QUARTER).astimezone(by)
            state, _ = begin([["bolt"]], {"bolt": "legacy-bolt"}, one.challenger, start, "Ada")
            ticks = [(tick + slots * QUARTER).astimezone(by) for tick in every(timedelta(hours=12), 8)]
            steps = list(replace(one, state=state, tables=tables).simulate_rollout(ticks))
            return [event for _, result in steps for event in result.events]

        assert told(ZoneInfo(zone)) == told(UTC)
        assert all(event.at.tzinfo is UTC for event in told(ZoneInfo(zone)))


class TestSilenceIsNotGuilt:
    """Pauses are put into the evidence: nights, weekends, holidays."""

    def paused(self, pauses: Sequence[tuple[int, int, int]]) -> tuple[list[tuple[Move, int]], list[str]]:
        """Moves with the number of production days before each, and what people were told.

        A pause: production day, slot of that day from which on nothing comes, length in hours.
        """
        one = world({"bolt": GOOD, "nut": GOOD}, [["bolt"], ["nut"]])
        first = slot_of(START)

        def later(slots: np.ndarray) -> np.ndarray:
            moved = slots.copy()
            for day, at, hours in pauses:
                moved[slots >= first + 96 * day + at] += 4 * hours
            return moved

        one = replace(one, tables={name: mapped(each, later) for name, each in one.tables.items()})
        total = 24 * 21 + sum(hours for _, _, hours in pauses)
        steps = list(one.simulate_rollout(START + number * HOUR for number in range(total)))
        starts = np.unique(later(first + 96 * np.arange(NUM_DAYS)))
        moves = [
            (move, int((starts + 96 <= slot_of(now)).sum()))
            for now, found in story(one.state, steps)
            for move in sorted(found)
        ]
        actions = [action for _, result in steps for action in result.actions if action.kind is ActionKind.NOTIFY]
        return moves, [action.reason for action in actions if action.reason.startswith("alarm")]

    @pytest.fixture(scope="class")
    def running(self) -> list[tuple[Move, int]]:
        moves, told = self.paused([])
        assert not told
        assert [move for move, _ in moves][-1] == ("nut", Phase.LEGACY_DELETED, 1.0)
        return moves

    @slow
    @given(
        pauses=st.lists(
            st.tuples(st.integers(0, 18), st.integers(50, 95), st.sampled_from([1, 7, 24, 56, 8 * 24, 30 * 24])),
            min_size=1,
            max_size=4,
            unique_by=lambda pause: pause[0],
        )
    )
    def test_pauses_between_production_days_change_no_move(
        self, running: list[tuple[Move, int]], pauses: list[tuple[int, int, int]]
    ) -> None:
        moves, told = self.paused(pauses)
        assert moves == running
        assert len(told) <= 2 * len(pauses)  # of each class once
        assert bool(told) or max(hours for _, _, hours in pauses) < 24

    @slow
    @given(
        pauses=st.lists(
            st.tuples(st.integers(0, 18), st.integers(0, 95), st.sampled_from([3, 30, 8 * 24, 30 * 24])),
            min_size=1,
            max_size=4,
            unique_by=lambda pause: pause[0],
        )
    )
    def test_pauses_at_any_moment_take_nothing_back_and_change_no_order(
        self, running: list[tuple[Move, int]], pauses: list[tuple[int, int, int]]
    ) -> None:
        """A pause in the middle of a shift makes two production days of one: each phase may end that much sooner."""
        moves, _ = self.paused(pauses)

        def order(of: list[tuple[Move, int]], name: str) -> list[Move]:
            return [move for move, _ in of if move[0] == name]

        for name in ("bolt", "nut"):
            assert order(moves, name) == order(running, name)


def test_no_move_is_illegal_and_replay_is_the_state(params: Params) -> None:
    """Also asserted of every schedule above; here for the policy as it is shipped, on a candidate that turns bad."""
    tables = {"v1-bolt": rehearse(Line(), SimulatedCandidate(missed=0.8, from_day=40), Reviews(), 60, 5)}
    start = start_of(int(tables["v1-bolt"].received.min()))
    state, events = begin([["bolt"]], {"bolt": "legacy-bolt"}, {"bolt": "v1-bolt"}, start, "Ada")
    ticks = [start + number * DAY for number in range(60)]
    steps = list(
        simulate_rollout(state, since_entry(tables), {"bolt": "v1-bolt"}, ticks, params.shadow, params.rollout)
    )
    assert replay([*events, *(event for _, result in steps for event in result.events)]) == steps[-1][1].state
