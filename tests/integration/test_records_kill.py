"""`kill -9` at random moments, 65 times: what was acknowledged is there, and everything is there once."""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from integration.made_records import BOLT, LEGACY, START, first_events, made_pair, tick
from shadowline.params import Params
from shadowline.records.database import open_database, reading
from shadowline.records.pairs import PairStore
from shadowline.records.rollout import RolloutStore
from shadowline.records.tables import ActionRow, OrderRow
from shadowline.rollout.engine import ActionKind
from shadowline.rollout.observation import Order, OrderKind
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import replay

PAIRS = [made_pair(number) for number in range(600)]
BATCH = 10
PATIENCE_S = 60


class Acknowledged:
    """What a process has said to be done: one number a line, in a file that outlives it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def add(self, number: int) -> None:
        with self.path.open("a") as file:
            file.write(f"{number}\n")

    def all(self) -> list[int]:
        return [int(line) for line in self.path.read_text().splitlines()]


def kill_after(
    work: Callable[..., None], arguments: tuple[Any, ...], done: Acknowledged, more: int, wait: float
) -> int:
    """Start a process, kill it `wait` seconds after it has acknowledged `more` things; returns its exit code."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(*arguments, done))
    enough, deadline = len(done.all()) + more, time.monotonic() + PATIENCE_S
    process.start()
    while len(done.all()) < enough and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(wait)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """An engine that is closed before the next process is forked."""
    engine = open_database(url)
    yield engine
    engine.dispose()


# --- pairs ------------------------------------------------------------------------------------------------------


def record_all(url: str, done: Acknowledged) -> None:
    """Every pair from the first, whatever is there, in small transactions; then again, until it is killed."""
    store = PairStore(open_database(url))
    for start in itertools.cycle(range(0, len(PAIRS), BATCH)):
        store.record(PAIRS[start : start + BATCH])
        done.add(start)


@pytest.mark.parametrize("seed", range(7))
def test_a_killed_recorder_loses_nothing_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    """Five kills: the first while the database is made, the others after a random number of transactions."""
    url, done = f"sqlite:///{tmp_path / 'records.db'}", Acknowledged(tmp_path / "done")
    rng = np.random.default_rng(seed)
    for batches in (0, *rng.integers(1, len(PAIRS) // BATCH, size=4)):
        assert kill_after(record_all, (url,), done, int(batches), rng.uniform(0, 0.02 if batches else 0.2)) == -9
        with opened(url) as engine:
            kept = PairStore(engine).known_keys(*BOLT)
        assert {pair.key for start in done.all() for pair in PAIRS[start : start + BATCH]} <= kept
        assert kept == {pair.key for pair in PAIRS[: len(kept)]}, "transactions are whole, and in order"
        assert len(kept) % BATCH == 0
    with opened(url) as engine:
        assert PairStore(engine).record(PAIRS) == len(PAIRS) - len(kept)
        assert sorted(PairStore(engine).table(*BOLT)["key"]) == sorted(pair.key for pair in PAIRS)


# --- ticks ------------------------------------------------------------------------------------------------------


def run_engine(url: str, params: Params, done: Acknowledged) -> None:
    """Ticks without end, an hour apart: classes go forward, are rolled back by a person, and try again."""
    store = RolloutStore(open_database(url))
    if not store.revision():
        store.begin(first_events())
    while True:
        revision = store.revision()
        now = START + timedelta(hours=revision)
        if store.next_order() is None and revision % 3 == 0:
            store.order(Order(OrderKind.ROLL_BACK, ("bolt", "nut"), "Ada", f"seen at {revision}"), now)
        order = store.next_order()
        result = tick(store, now, params, order, challenger={name: f"v{revision}-{name}" for name in LEGACY})
        store.commit(result, order)
        done.add(result.state.revision)


@pytest.fixture
def hasty(params: Params) -> Params:
    """A calendar without days, so that nearly every tick is a move."""
    at_once = dict.fromkeys(
        ("canary_days", "stabilisation_days", "read_only_days", "off_days", "parallel_days"), 0.0
    )  # fmt: skip
    shadow, rollout = params.shadow.model_copy(update={"min_days": 0.0}), params.rollout.model_copy(update=at_once)
    return params.model_copy(update={"shadow": shadow, "rollout": rollout})


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_engine_leaves_no_gap_no_double_move_and_a_whole_outbox(
    tmp_path: Path, hasty: Params, seed: int
) -> None:
    """Six kills, each after a random number of ticks."""
    url, done = f"sqlite:///{tmp_path / 'records.db'}", Acknowledged(tmp_path / "done")
    rng = np.random.default_rng(seed)
    for ticks in (0, *rng.integers(1, 25, size=5)):
        assert kill_after(run_engine, (url, hasty), done, int(ticks), rng.uniform(0, 0.02 if ticks else 0.2)) == -9
        with opened(url) as engine:
            store = RolloutStore(engine)
            assert store.revision() >= max(done.all(), default=0)
            assert store.state() == replay(store.events())
            check_outbox(store)
            check_orders(store)
    with opened(url) as engine:
        phases = {event.after.phase for event in RolloutStore(engine).events()}
        assert phases >= {Phase.SHADOW, Phase.CANARY, Phase.ROLLED_BACK}, "the story was worth killing"


def check_outbox(store: RolloutStore) -> None:
    """One message for each move, in the order of the moves."""
    moves = [event for event in store.events() if event.source is not None and event.is_move]
    told = [pending.action for pending in store.pending_actions() if pending.action.kind is ActionKind.NOTIFY]
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
    assert [order for order in orders if order.done_revision is None] in ([], orders[-1:])
    obeyed = {order.why for order in orders if order.done_revision is not None}
    assert {event.after.reason.removeprefix("Ada: ") for event in by_person} <= obeyed
