"""The rollout on real databases, SQLite and PostgreSQL: one writer wins, and the events tell everything."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, func, select, update

from fixtures.records import (
    CANDIDATE,
    LEGACY,
    START,
    first_events,
    image_id,
    made_pair,
    stores_on,
    tick,
    together,
    wait_for_the_others,
)
from shadowline.core.params import Params
from shadowline.data.labels import Label
from shadowline.evaluation.evidence import slot_of
from shadowline.records.database import open_database, reading
from shadowline.records.evidence import read_evidence
from shadowline.records.model_locations import ModelLocation
from shadowline.records.observe import observe
from shadowline.records.outbox import Outbox
from shadowline.records.rollout_store import ConcurrentUpdateError, RolloutStore
from shadowline.records.stores import Records
from shadowline.records.tables import ActionRow, ClassRow, EventRow, OrderRow
from shadowline.rollout.engine import ActionKind, RolloutStep, begin, leave
from shadowline.rollout.observation import Approval, ChecklistItem, Order, OrderKind
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import STAYS, ClassState, RolloutState, replay
from shadowline.rollout.weighing import weigh

NAIVE = datetime(2026, 1, 5)
DAY = timedelta(days=1)


@pytest.fixture
def stores(engine: Engine) -> Records:
    """A rollout with every class in LEGACY."""
    stores = stores_on(engine)
    stores.rollout.begin(first_events())
    return stores


@pytest.fixture
def store(stores: Records) -> RolloutStore:
    return stores.rollout


def advance(store: RolloutStore, params: Params, days: int) -> list[RolloutStep]:
    """As many healthy days, one committed tick each, from where the events end."""
    start = store.events()[-1].at
    steps = []
    for day in range(1, days + 1):
        steps.append(tick(store, start + day * DAY, params))
        store.commit(steps[-1])
    return steps


def written(store: RolloutStore) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the tables that a tick writes."""
    with reading(store.engine) as connection:
        return {
            row.__tablename__: [
                tuple(found) for found in connection.execute(select(row).order_by(*row.__mapper__.primary_key))
            ]
            for row in (EventRow, ClassRow, ActionRow, OrderRow)
        }


class TestBegin:
    def test_every_class_is_in_legacy(self, store: RolloutStore) -> None:
        assert store.state() == replay(first_events())
        assert store.revision() == 3
        assert {cls.phase for cls in store.state().classes} == {Phase.LEGACY}

    def test_twice_is_refused_and_leaves_the_first(self, store: RolloutStore) -> None:
        before = written(store)
        with pytest.raises(ConcurrentUpdateError, match="at revision 3"):
            store.begin(first_events())
        assert written(store) == before

    def test_processes_that_begin_at_once_leave_one_rollout(self, database_url: str) -> None:
        open_database(database_url).dispose()
        assert sorted(together(_begin, [(database_url,)] * 3)) == ["begun", "refused", "refused"]
        assert stores_on(open_database(database_url)).rollout.revision() == 3

    def test_before_it_there_is_nothing(self, engine: Engine) -> None:
        store = stores_on(engine).rollout
        assert (store.state(), store.revision(), store.events()) == (RolloutState(()), 0, ())


class TestAPlanThatGrows:
    MORE = ({**LEGACY, "washer": "legacy-washer"}, {**CANDIDATE, "washer": "v1-washer"})

    def plan(self, store: RolloutStore, *waves: list[str], without_legacy: tuple[str, ...] = ()) -> None:
        legacy = {name: model for name, model in self.MORE[0].items() if name not in without_legacy}
        store.begin(begin(waves, legacy, self.MORE[1], START + DAY, "Bob", store.state(), without_legacy)[1])

    def test_further_classes_come_after_those_that_are_under_way(self, store: RolloutStore, params: Params) -> None:
        advance(store, params, 40)
        before = store.state()
        self.plan(store, ["washer"])
        after = store.state()
        assert after.classes[:3] == before.classes
        assert (after.of("washer").wave, after.revision) == (3, before.revision + 1)
        assert after == replay(store.events())

    def test_a_plan_made_on_what_has_changed_since_is_refused(self, store: RolloutStore, params: Params) -> None:
        events = begin([["washer"]], *self.MORE, START, "Bob", store.state())[1]
        advance(store, params, 1)
        before = written(store)
        with pytest.raises(ConcurrentUpdateError, match="at revision 5; look at it and plan again"):
            store.begin(events)
        assert written(store) == before

    def test_the_order_changes_by_planning_again(self, store: RolloutStore) -> None:
        self.plan(store, ["gear"], ["bolt", "nut"])
        assert [(cls.class_name, cls.wave) for cls in store.state().classes] == [("gear", 3), ("bolt", 4), ("nut", 4)]
        assert store.state() == replay(store.events())

    def test_a_class_without_a_legacy_model_ends_alone(self, store: RolloutStore, params: Params) -> None:
        self.plan(store, ["washer"], without_legacy=("washer",))
        start = store.events()[-1].at
        for day in range(1, 150):
            store.commit(tick(store, start + day * DAY, params, challenger=self.MORE[1]))
        assert (store.state().of("washer").phase, store.state().of("washer").legacy) == (Phase.ALONE, "")
        assert store.state() == replay(store.events())

    def test_the_last_that_leaves_lets_the_others_be_promoted(
        self, store: RolloutStore, stores: Records, params: Params
    ) -> None:
        advance(store, params, 36)
        assert store.state().of("bolt").phase is Phase.LIVE
        store.commit(leave(store.state(), "gear", START + 40 * DAY, "Ada"))
        assert store.state().of("gear").wave == STAYS
        assert stores.outbox.pending_actions()[-1].action.kind is ActionKind.PROMOTE
        assert store.state() == replay(store.events())


class TestEventsOfEarlierVersions:
    NEW = ("num_successions", "days_before", "evidence_since", "answering_since", "alarmed_at", "silent_since", "alarm")

    def test_they_are_read_and_gone_on_from(self, store: RolloutStore, params: Params) -> None:
        """As version 0.9 wrote them: with a budget of soft failures, and another word for `evidence_since`."""
        advance(store, params, 32)
        before = store.state()
        with store.engine.begin() as connection:
            for table in (EventRow, ClassRow):
                column = "after" if table is EventRow else "state"
                for row in connection.execute(select(table)).all():
                    raw = dict(getattr(row, column))
                    former = {name: value for name, value in raw.items() if name not in self.NEW}
                    former |= {"parallel_since": raw["evidence_since"], "soft_failures": 1, "last_failure": "silence"}
                    key = next(iter(table.__mapper__.primary_key))
                    own = key == getattr(row, key.name)
                    connection.execute(update(table).where(own).values({column: former}))
        read = store.state()
        assert read == replay(store.events())
        assert [(cls.phase, cls.share, cls.since, cls.evidence_since) for cls in read.classes] == [
            (cls.phase, cls.share, cls.since, cls.evidence_since) for cls in before.classes
        ]
        advance(store, params, 70)
        assert store.state().of("bolt").phase is Phase.LEGACY_OFF
        assert store.state() == replay(store.events())


def _begin(url: str) -> str:
    try:
        stores_on(open_database(url)).rollout.begin(first_events())
    except ConcurrentUpdateError:
        return "refused"
    return "begun"


class TestTheEventsTellEverything:
    def test_state_is_the_replay_of_the_events_at_every_tick(self, store: RolloutStore, params: Params) -> None:
        start = store.events()[-1].at
        for day in range(1, 100):
            result = tick(store, start + day * DAY, params)
            store.commit(result)
            assert store.state() == result.state == replay(store.events())
        assert store.state().of("bolt").phase is Phase.LEGACY_OFF

    def test_events_of_one_class_are_its_own_in_order(self, store: RolloutStore, params: Params) -> None:
        advance(store, params, 40)
        found = store.events("nut")
        assert [event.after.phase for event in found[:3]] == [Phase.LEGACY, Phase.SHADOW, Phase.CANARY]
        assert found == tuple(event for event in store.events() if event.after.class_name == "nut")

    def test_a_reader_sees_one_moment_while_an_engine_commits(self, store: RolloutStore, params: Params) -> None:
        """Phase table and revision of two moments would let a stale tick pass for a fresh one."""
        revision = select(func.max(EventRow.revision))
        with reading(store.engine) as reader:
            reader.execute(select(ClassRow.state)).all()
            store.commit(tick(store, START + DAY, params))
            assert reader.execute(revision).scalar() == 3
        assert store.revision() == 5

    def test_readers_do_not_wait_for_an_engine_that_commits(self, store: RolloutStore, stores: Records) -> None:
        before = store.state()
        with store._writing() as connection:
            connection.execute(update(ClassRow).values(revision=99))
            assert store.state() == before
            assert (store.revision(), len(store.events()), stores.outbox.pending_actions()) == (3, 3, ())
            assert (stores.approvals.next_order(), stores.approvals.approvals()) == (None, ())


class TestOneEngineWins:
    def test_the_second_writes_nothing(self, store: RolloutStore, params: Params) -> None:
        first, second = tick(store, START + DAY, params), tick(store, START + 2 * DAY, params)
        store.commit(first)
        before = written(store)
        with pytest.raises(ConcurrentUpdateError, match="at revision 5, this tick saw 3; nothing written"):
            store.commit(second)
        assert written(store) == before

    def test_a_longer_tick_does_not_pass_over_a_shorter_one(self, store: RolloutStore, params: Params) -> None:
        """Its later events have numbers that are still free."""
        short, long = tick(store, START + DAY, params), tick(store, START + DAY, params)
        short = replace(short, events=short.events[:1], state=replace(short.state, revision=4))
        store.commit(short)
        with pytest.raises(ConcurrentUpdateError):
            store.commit(long)
        assert store.revision() == 4

    def test_a_tick_of_a_state_that_is_ahead_is_refused(self, store: RolloutStore, params: Params) -> None:
        """As after a restored backup: it would leave a gap."""
        result = tick(store, START + DAY, params)
        later = tuple(replace(event, revision=event.revision + 1) for event in result.events)
        with pytest.raises(ConcurrentUpdateError):
            store.commit(replace(result, events=later, state=replace(result.state, revision=6)))
        assert store.revision() == 3

    def test_of_processes_that_commit_at_once_one_wins(
        self, store: RolloutStore, stores: Records, database_url: str, params: Params
    ) -> None:
        store.engine.dispose()
        found = together(_commit, [(database_url, params)] * 3)
        assert sorted(found) == ["moved meanwhile", "moved meanwhile", "written"]
        assert store.state() == replay(store.events())
        assert len(stores.outbox.pending_actions()) == 2  # bolt and nut, each told once


def _commit(url: str, params: Params) -> str:
    store = stores_on(open_database(url)).rollout
    result = tick(store, START + DAY, params)
    wait_for_the_others()
    try:
        store.commit(result)
    except ConcurrentUpdateError:
        return "moved meanwhile"
    return "written"


class TestOrders:
    def test_one_is_obeyed_once(self, store: RolloutStore, stores: Records, params: Params) -> None:
        advance(store, params, 1)
        stores.approvals.order(Order(OrderKind.HOLD, ("bolt",), "Ada", "cleaning"), START)
        order = stores.approvals.next_order()
        assert order is not None
        result = tick(store, START + 2 * DAY, params, order)
        store.commit(result, order)
        assert store.state().of("bolt").phase is Phase.HELD
        assert stores.approvals.next_order() is None
        with pytest.raises(ConcurrentUpdateError, match=f"order {order.id} was obeyed by another engine"):
            store.commit(tick(store, START + 3 * DAY, params), order)

    def test_one_that_means_nothing_is_crossed_off_all_the_same(
        self, store: RolloutStore, stores: Records, params: Params
    ) -> None:
        stores.approvals.order(Order(OrderKind.RESUME, ("bolt",), "Ada", "nothing is held"), START)
        order = stores.approvals.next_order()
        nothing = replace(tick(store, START, params, order), events=(), actions=(), state=store.state())
        store.commit(nothing, order)
        assert stores.approvals.next_order() is None

    def test_one_that_a_stale_tick_found_meaningless_stays(
        self, store: RolloutStore, stores: Records, params: Params
    ) -> None:
        """Rolling back a class in LEGACY means nothing; a tick later it is in SHADOW, and it does."""
        stores.approvals.order(Order(OrderKind.ROLL_BACK, ("bolt",), "Ada", "complaint"), START)
        order = stores.approvals.next_order()
        stale = replace(tick(store, START, params), events=(), actions=(), state=store.state())
        store.commit(tick(store, START + DAY, params))
        with pytest.raises(ConcurrentUpdateError):
            store.commit(stale, order)
        assert stores.approvals.next_order() == order

    def test_they_come_in_the_order_in_which_they_were_given(
        self, store: RolloutStore, stores: Records, params: Params
    ) -> None:
        kinds = [OrderKind.HOLD, OrderKind.RESUME, OrderKind.ROLL_BACK]
        for kind in kinds:
            stores.approvals.order(Order(kind, ("bolt", "nut"), "Ada", "because"), START)
        for day, kind in enumerate(kinds, start=1):
            order = stores.approvals.next_order()
            assert order is not None and order.order == Order(kind, ("bolt", "nut"), "Ada", "because")
            store.commit(tick(store, START + day * DAY, params, order), order)

    def test_a_class_that_is_not_in_the_rollout_is_refused(self, stores: Records) -> None:
        with pytest.raises(ValueError, match="'screw' is not in the rollout"):
            stores.approvals.order(Order(OrderKind.HOLD, ("bolt", "screw"), "Ada", "?"), START)
        assert stores.approvals.next_order() is None


class TestTheWordsOfPeople:
    GOOD = Approval("bolt", Phase.CANARY, LEGACY["bolt"], CANDIDATE["bolt"], "Ada")

    def test_an_approval_is_kept_once_and_whole(self, stores: Records) -> None:
        stores.approvals.approve(self.GOOD, START)
        stores.approvals.approve(replace(self.GOOD, by="Bob"), START)
        assert stores.approvals.approvals() == (self.GOOD,)

    @pytest.mark.parametrize("other", [{"candidate": "v2-bolt"}, {"legacy": "another"}])
    def test_an_approval_of_other_models_is_refused(self, stores: Records, other: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="is now about v1-bolt against legacy-bolt"):
            stores.approvals.approve(replace(self.GOOD, **other), START)
        assert stores.approvals.approvals() == ()

    def test_an_approval_of_an_unknown_class_is_refused(self, stores: Records) -> None:
        with pytest.raises(ValueError, match="'screw' is not in the rollout"):
            stores.approvals.approve(replace(self.GOOD, class_name="screw"), START)

    def test_evidence_counts_for_exactly_this_legacy_model(self, stores: Records) -> None:
        item = ChecklistItem.TRAINED
        stores.approvals.record_evidence("bolt", LEGACY["bolt"], item, "Ada", START, "https://wiki/1")
        stores.approvals.record_evidence("bolt", LEGACY["bolt"], item, "Bob", START + DAY, "https://wiki/2")
        found = stores.approvals.evidence("bolt", LEGACY["bolt"])
        assert found == {item: {"by": "Bob", "at": START + DAY, "link": "https://wiki/2"}}
        assert (
            stores.approvals.evidence("bolt", "retrained-legacy")
            == stores.approvals.evidence("nut", LEGACY["bolt"])
            == {}
        )

    @pytest.mark.parametrize(("by", "link"), [("", "https://wiki"), ("Ada", " ")])
    def test_evidence_without_a_person_or_a_link_is_refused(self, stores: Records, by: str, link: str) -> None:
        with pytest.raises(ValueError, match="both must say something"):
            stores.approvals.record_evidence("bolt", LEGACY["bolt"], ChecklistItem.TRAINED, by, START, link)

    def test_naive_times_are_refused_everywhere(self, store: RolloutStore, stores: Records) -> None:
        before = written(store)
        place = ModelLocation("1", "bolt", "legacy", "models/1", "1")
        for speak in (
            lambda: stores.approvals.order(Order(OrderKind.HOLD, ("bolt",), "Ada", "?"), NAIVE),
            lambda: stores.approvals.approve(self.GOOD, NAIVE),
            lambda: stores.approvals.record_evidence(
                "bolt", LEGACY["bolt"], ChecklistItem.TRAINED, "Ada", NAIVE, "link"
            ),
            lambda: stores.locations.upsert_model([place], NAIVE),
            lambda: stores.outbox.finish_action(1, NAIVE),
        ):
            with pytest.raises(ValueError, match="no time zone; give UTC"):
                speak()
        assert written(store) == before


class TestTheOutbox:
    @pytest.fixture
    def outbox(self, stores: Records, params: Params) -> Outbox:
        """Two messages: bolt and nut go into SHADOW."""
        stores.rollout.commit(tick(stores.rollout, START + DAY, params))
        return stores.outbox

    def test_what_a_tick_asks_for_is_written_with_it(
        self, store: RolloutStore, stores: Records, params: Params
    ) -> None:
        asked = [action for result in advance(store, params, 60) for action in result.actions]
        assert [pending.action for pending in stores.outbox.pending_actions()] == asked
        assert {action.kind for action in asked} == {ActionKind.NOTIFY, ActionKind.ARCHIVE_LEGACY}

    def test_what_is_done_is_crossed_off(self, outbox: Outbox) -> None:
        first, second = outbox.pending_actions()
        outbox.finish_action(first.id, START)
        assert outbox.pending_actions() == (second,)

    @pytest.mark.parametrize("error", ["the bucket is away", ""])
    def test_what_failed_stays_also_without_a_message(self, outbox: Outbox, error: str) -> None:
        first, second = outbox.pending_actions()
        outbox.finish_action(first.id, START, error=error)
        assert outbox.pending_actions() == (replace(first, last_error=error), second)

    def test_what_succeeds_at_last_forgets_its_error(self, outbox: Outbox, store: RolloutStore) -> None:
        first, second = outbox.pending_actions()
        outbox.finish_action(first.id, START, error="the bucket is away")
        outbox.finish_action(first.id, START + DAY)
        assert outbox.pending_actions() == (second,)
        assert written(store)["rollout_actions"][0][-2:] == (START + DAY, None)


class TestModels:
    def test_a_newer_place_of_a_fingerprint_wins(self, stores: Records) -> None:
        old = ModelLocation("f1", "bolt", "candidate", "models:/inspector/1", "1")
        new, other = replace(old, location="models:/inspector/2", version="2"), replace(old, fingerprint="f2")
        stores.locations.upsert_model([old, other], START)
        stores.locations.upsert_model([new], START + DAY)
        assert stores.locations.model("f1") == new
        assert stores.locations.models("candidate") == (new, other)
        assert stores.locations.models("legacy") == ()

    def test_one_that_nobody_noted_is_refused(self, stores: Records) -> None:
        with pytest.raises(ValueError, match="not on record; register it again"):
            stores.locations.model("unknown")


class TestWhatFailedStaysFailed:
    def test_a_candidate_that_was_taken_back_is_no_challenger_any_more(self, engine: Engine, params: Params) -> None:
        records = stores_on(engine)
        records.rollout.begin(first_events())
        first, second = CANDIDATE["bolt"], "b" * 64

        def offered(challenger: str) -> str | None:
            seen = observe(records.rollout.state(), records, {"bolt": challenger}, START + 9 * DAY, params)
            return seen.challenger.get("bolt")

        for number, candidate in enumerate((first, second), start=1):
            challenger, at = {**CANDIDATE, "bolt": candidate}, START + 3 * number * DAY
            records.rollout.commit(tick(records.rollout, at, params, challenger=challenger))
            assert records.rollout.state().of("bolt").phase is Phase.SHADOW
            records.approvals.order(Order(OrderKind.ROLL_BACK, ("bolt",), "Ada", "4711"), at + DAY)
            order = records.approvals.next_order()
            records.rollout.commit(tick(records.rollout, at + DAY, params, order, challenger), order)
        assert records.rollout.state().of("bolt").phase is Phase.ROLLED_BACK
        assert offered(first) is None
        assert offered(second) == second  # the one that the class is known to have failed with
        assert offered("c" * 64) == "c" * 64


class TestEvidenceOfAClass:
    def test_it_is_read_by_the_time_of_receipt_and_by_no_other(self, engine: Engine, params: Params) -> None:
        """Whatever callers claim: the same table, on both databases."""
        records = stores_on(engine)
        one = ClassState("bolt", 1, Phase.SHADOW, START, LEGACY["bolt"], CANDIDATE["bolt"], 0.0, evidence_since=START)
        rng = np.random.default_rng(1)
        claims = [datetime(1969, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC), START]
        records.pairs.record(
            [
                made_pair(number, captured_at=claims[number % 3], received_at=START + timedelta(minutes=20 * number))
                for number in range(300)
            ]
        )
        for number in rng.choice(300, size=60, replace=False):
            at = START + timedelta(minutes=20 * int(number), hours=5)
            records.pairs.label("bolt", image_id(int(number)), Label.ANOMALOUS, "Ada", at)
        now = START + timedelta(days=3)
        evidence = read_evidence(engine, one, now, params.rollout)
        expected = {slot_of(START + timedelta(minutes=20 * number)) for number in range(216)}  # the others come later
        assert set(evidence.table.received.tolist()) == expected
        assert int(evidence.table.count.sum()) == 216
        assert int(evidence.table.slot.max()) < slot_of(now)
        assert evidence.num_days(START, 10) == 3
        seen = weigh(one, evidence, (), params.shadow, params.rollout)
        assert (seen.phase_days, seen.parallel_days, seen.last_received) == (3, 3, now - timedelta(minutes=15))
