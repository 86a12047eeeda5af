"""`kill -9` at random moments: a few dozen in `make test`, a thousand in `make soak`.

What was acknowledged is there, everything is there once, and whoever comes next goes on.
"""

from __future__ import annotations

import itertools
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import select

from fixtures.effort import seeds
from fixtures.kills import Acknowledged, kill, kill_after, opened, start, wait_until
from fixtures.records import BOLT, LEGACY, START, first_events, made_pair, stores_on, tick
from shadowline.core.params import Params
from shadowline.records.database import open_database, reading
from shadowline.records.rollout_store import ConcurrentUpdateError, RolloutStore
from shadowline.records.stores import Records
from shadowline.records.tables import ActionRow, OrderRow
from shadowline.rollout.engine import ActionKind
from shadowline.rollout.observation import Order, OrderKind
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import replay

if TYPE_CHECKING:
    pass

PAIRS = [made_pair(number) for number in range(600)]
BATCH = 10


# --- pairs ------------------------------------------------------------------------------------------------------


def record_all(url: str, done: Acknowledged) -> None:
    """Every pair from the first, whatever is there, in small transactions; then again, until it is killed."""
    store = stores_on(open_database(url)).pairs
    for first in itertools.cycle(range(0, len(PAIRS), BATCH)):
        store.record(PAIRS[first : first + BATCH])
        done.add(first)


@pytest.mark.parametrize("seed", seeds(2))
def test_a_killed_recorder_loses_nothing_and_doubles_nothing(database_url: str, tmp_path: Path, seed: int) -> None:
    """Five kills: the first while the schema is made, the others after a random number of transactions."""
    done = Acknowledged(tmp_path / "done")
    rng = np.random.default_rng(seed)
    for batches in (0, *rng.integers(1, len(PAIRS) // BATCH, size=4)):
        kill_after(done, int(batches), rng.uniform(0, 0.02 if batches else 0.2), record_all, database_url)
        with opened(database_url) as engine:
            kept = stores_on(engine).pairs.known_keys(*BOLT)
        assert {pair.key for first in done.all() for pair in PAIRS[first : first + BATCH]} <= kept
        assert kept == {pair.key for pair in PAIRS[: len(kept)]}, "transactions are whole, and in order"
        assert len(kept) % BATCH == 0
    with opened(database_url) as engine:
        assert stores_on(engine).pairs.record(PAIRS) == len(PAIRS) - len(kept)
        assert sorted(stores_on(engine).pairs.table(*BOLT)["key"]) == sorted(pair.key for pair in PAIRS)


# --- ticks ------------------------------------------------------------------------------------------------------


def run_engine(url: str, params: Params, beaten: Acknowledged, done: Acknowledged) -> None:
    """Ticks without end, an hour apart: classes go forward, are rolled back by a person, and try again.

    `done` gets the revision that a tick has come to, `beaten` the one at which another engine was first.
    """
    stores = stores_on(open_database(url))
    store = stores.rollout
    if not store.revision():
        store.begin(first_events())
    while True:
        revision = store.revision()
        now = START + timedelta(hours=revision)
        if stores.approvals.next_order() is None and revision % 7 == 0:
            stores.approvals.order(Order(OrderKind.ROLL_BACK, ("bolt", "nut"), "Ada", uuid4().hex), now)
        order = stores.approvals.next_order()
        result = tick(store, now, params, order, challenger={name: f"v{revision}-{name}" for name in LEGACY})
        try:
            store.commit(result, order)
        except ConcurrentUpdateError:
            beaten.add(revision)
        else:
            if result.events:
                done.add(result.state.revision)


@pytest.fixture
def hasty(params: Params) -> Params:
    """A calendar without days, so that nearly every tick is a move."""
    at_once = dict.fromkeys(
        ("canary_days", "stabilisation_days", "read_only_days", "off_days", "parallel_days"), 0.0
    )  # fmt: skip
    shadow, rollout = params.shadow.model_copy(update={"min_days": 0.0}), params.rollout.model_copy(update=at_once)
    return params.model_copy(update={"shadow": shadow, "rollout": rollout})


@pytest.mark.parametrize("seed", seeds(2))
def test_a_killed_engine_leaves_no_gap_no_double_move_and_a_whole_outbox(
    database_url: str, tmp_path: Path, hasty: Params, seed: int
) -> None:
    """Six kills, each after a random number of ticks."""
    done, beaten = Acknowledged(tmp_path / "done"), Acknowledged(tmp_path / "beaten")
    rng = np.random.default_rng(seed)
    for ticks in (0, *rng.integers(1, 25, size=5)):
        wait = rng.uniform(0, 0.02 if ticks else 0.2)
        kill_after(done, int(ticks), wait, run_engine, database_url, hasty, beaten)
        with opened(database_url) as engine:
            assert stores_on(engine).rollout.revision() >= max(done.all(), default=0)
            check_story(stores_on(engine))
    assert not beaten.all(), "of one engine nobody was first but itself"
    with opened(database_url) as engine:
        phases = {event.after.phase for event in stores_on(engine).rollout.events()}
        assert phases >= {Phase.SHADOW, Phase.CANARY, Phase.ROLLED_BACK}, "the story was worth killing"


def test_of_two_engines_at_once_one_wins_the_other_says_so_and_a_killed_one_stops_nobody(
    database_url: str, tmp_path: Path, hasty: Params
) -> None:
    """Ten kills: one of the two when each was beaten by the other, the other when it has gone on alone."""
    done, beaten = ([Acknowledged(tmp_path / f"{name}{i}") for i in (0, 1)] for name in ("done", "beaten"))
    rng = np.random.default_rng(0)
    with opened(database_url) as engine:
        stores_on(engine).rollout.begin(first_events())
    for times in rng.integers(1, 6, size=5):
        enough = [len(file.all()) + times for file in beaten]
        engines = [start(run_engine, database_url, hasty, beaten[i], done[i]) for i in (0, 1)]
        wait_until(partial(have_grown, beaten, enough))
        first, second = rng.permutation(2)
        kill(engines[first])
        wait_until(partial(have_grown, [done[second]], [len(done[second].all()) + 10]))
        kill(engines[second])
        with opened(database_url) as engine:
            check_story(stores_on(engine))
            written = {event.revision for event in stores_on(engine).rollout.events()}
        won = [revision for file in done for revision in file.all()]
        assert len(set(won)) == len(won), "both say that they made the same move"
        assert set(won) <= written


def have_grown(files: list[Acknowledged], enough: list[int]) -> bool:
    return all(len(file.all()) >= number for file, number in zip(files, enough, strict=True))


def check_story(stores: Records) -> None:
    """Events without a gap, the phase table that they lead to, and an outbox and orders that fit them."""
    store = stores.rollout
    assert store.state() == replay(store.events())
    check_outbox(stores)
    check_orders(store)


def check_outbox(stores: Records) -> None:
    """One message for each move, in the order of the moves."""
    store = stores.rollout
    moves = [event for event in store.events() if event.source is not None and event.is_move]
    told = [pending.action for pending in stores.outbox.pending_actions() if pending.action.kind is ActionKind.NOTIFY]
    assert [(action.class_name, action.fingerprint, action.reason) for action in told] == [
        (move.after.class_name, move.after.candidate, f"{move.after.phase}: {move.after.reason}") for move in moves
    ]
    with reading(store.engine) as connection:
        revisions = set(connection.execute(select(ActionRow.revision)).scalars())
    assert revisions <= {event.revision for event in store.events()}


def check_orders(store: RolloutStore) -> None:
    """Each is obeyed once: a class that it moved says so in exactly one event."""
    by_person = [event for event in store.events() if event.source is not None and event.by == "Ada"]
    assert len({(event.after.class_name, event.after.reason) for event in by_person}) == len(by_person)
    with reading(store.engine) as connection:
        orders = connection.execute(select(OrderRow.why, OrderRow.done_revision).order_by(OrderRow.id)).all()
    waiting = [order.done_revision is None for order in orders]
    assert waiting == sorted(waiting), "the oldest is obeyed first"
    obeyed = {order.why for order in orders if order.done_revision is not None}
    assert {event.after.reason.removeprefix("Ada: ") for event in by_person} <= obeyed
