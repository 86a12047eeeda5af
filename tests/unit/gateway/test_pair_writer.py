"""Pairs on their way into the database: what neither it nor the disk takes waits in memory, and a loss is on record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import create_engine, event, text

from fixtures.pairs import pair
from fixtures.waiting import wait_for
from shadowline.core.params import Params
from shadowline.data.near_duplicates import FrameRule
from shadowline.gateway.metrics import Metrics
from shadowline.gateway.pair_writer import PairWriter
from shadowline.gateway.spool import Spool
from shadowline.records.audit_log.keys import KeyFolder
from shadowline.records.database import open_database
from shadowline.records.pair import DROPPED, Pair
from shadowline.records.pairs import PairStore
from shadowline.records.stores import records_on

FRAMES = FrameRule(window=200, levels=0.5)
Begin = Callable[..., PairWriter]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 1_000_000)


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    return records_on(open_database(f"sqlite:///{tmp_path / 'records.db'}"), KeyFolder(tmp_path / "keys")).pairs


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def new_writer(store: PairStore, spool: Spool, params: Params, metrics: Metrics) -> Begin:
    def begin(**changes: float) -> PairWriter:
        quick = {"poll_interval_ms": 5, **changes}
        return PairWriter(store, spool, params.gateway.model_copy(update=quick), FRAMES, metrics)

    return begin


def images(pairs: list[Pair]) -> set[str]:
    return {pair.image_id for pair in pairs}


def taken(spool: Spool) -> list[Pair]:
    found: list[Pair] = []
    spool.replay(lambda pairs: found.extend(pairs) or len(pairs))
    return found


@contextmanager
def full(store: PairStore, spool: Spool) -> Iterator[None]:
    """The database may not grow by a page, as on a full disk: it can be read, and an empty transaction succeeds. The
    spool is full as well."""

    def bound(connection: object, *_: object) -> None:
        connection.execute("PRAGMA max_page_count=1")  # type: ignore[attr-defined]  # SQLite takes: as many as now

    event.listen(store.engine, "checkout", bound)
    spool.folder.mkdir(exist_ok=True)
    (spool.folder / "pairs.jsonl").symlink_to("/dev/full")
    try:
        yield
    finally:
        event.remove(store.engine, "checkout", bound)
        store.engine.dispose()
        (spool.folder / "pairs.jsonl").unlink()


def test_the_writer_writes_in_batches_and_once(
    store: PairStore, spool: Spool, metrics: Metrics, new_writer: Begin
) -> None:
    writer = new_writer()
    for number in range(250):
        writer.offer(pair(number % 200))
    writer.start()
    writer.close(30)
    assert len(store.table("bolt", "new", "old")) == 200
    assert metrics.registry.get_sample_value("shadowline_pairs_recorded_total") == 200
    assert spool.num_bytes == 0


def test_a_writer_whose_database_hangs_at_the_end_leaves_everything_on_disk(
    store: PairStore, spool: Spool, new_writer: Begin
) -> None:
    blocker = create_engine(store.engine.url, isolation_level="AUTOCOMMIT").connect()
    blocker.execute(text("BEGIN EXCLUSIVE"))
    writer = new_writer(record_batch=2)
    for number in range(5):
        writer.offer(pair(number))
    writer.start()
    writer.close(0.2)
    found = taken(spool)
    blocker.execute(text("ROLLBACK"))
    assert images(found) == images([pair(number) for number in range(5)])


def test_what_a_full_disk_takes_nowhere_waits_in_memory_and_is_said_until_it_is_written(
    store: PairStore, spool: Spool, new_writer: Begin
) -> None:
    writer = new_writer()
    writer.start()
    with full(store, spool):
        for number in range(400):  # enough for new pages
            writer.offer(pair(number, frame_signature=bytes(1024)))
        wait_for(lambda: writer.problem is not None)
        assert "in memory alone, neither database nor spool takes them (OSError: [Errno 28]" in (writer.problem or "")
        store.record([])  # an empty transaction succeeds, and proves nothing
        assert writer.problem
    wait_for(lambda: writer.problem is None)
    writer.close(30)
    assert (len(store.table("bolt", "new", "old")), writer.num_lost) == (400, 0)


def test_a_full_queue_loses_pairs_and_their_loss_is_on_record_where_the_guard_reads(
    store: PairStore, metrics: Metrics, new_writer: Begin
) -> None:
    writer = new_writer(pair_queue=2)
    alone = pair(3, candidate="", candidate_said=None)
    for offered in (pair(0), pair(1), pair(2), alone):
        writer.offer(offered)
    assert writer.num_lost == metrics.registry.get_sample_value("shadowline_pairs_lost_total") == 2
    assert writer.problem == "pairs: 2 are lost, which is not on record yet"
    writer.start()
    wait_for(lambda: writer.problem is None)
    writer.close(30)
    lost = store.table("bolt", "new", "old").set_index("image_id")["candidate_error"]
    assert lost[pair(2).image_id] == DROPPED and pd.isna(lost[pair(1).image_id])
    assert list(store.table("bolt", "", "old")["image_id"]) == [alone.image_id]
    assert writer.num_lost == 2
