"""Seals pairs in batches: for every hour of a class, the audit log holds the root of a Merkle tree over its pairs.

    seal_pairs(chain, now)              # at every tick: the hours that ended a while ago
    compare_pairs(engine, progress)     # every root computed again from the rows

An entry of kind `pairs` is about one class and says, in UTC,

    {"hour": "2026-01-05T06", "count": 62, "root": …, "last_id": 901, "next_id": 950, "leaf": 1}

Its batch is the pairs of that class and hour with ids above those of the batch before it, up to `last_id`; so a pair
that is recorded late, from a gateway's spool, is in a batch of its own. Below `next_id` nothing was left unsealed.
Leaves are in order of their ids; a leaf is the JSON list of the columns that LEAF_COLUMNS names for its `leaf`.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute

from shadowline.core.progress import Progress
from shadowline.core.secrets import mask
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.audit_log.merkle import Tree
from shadowline.records.audit_log.rows import plain_values
from shadowline.records.audit_log.state import Difference, TableReport
from shadowline.records.audit_log.statements import Statement, read_latest, read_statements
from shadowline.records.database import reading, reading_any_text
from shadowline.records.tables import PairRow
from shadowline.rollout.engine import ENGINE

log = logging.getLogger(__name__)

SETTLING = timedelta(minutes=15)  # from the end of an hour until it is sealed, in which pairs under way arrive
LEAF_COLUMNS = {  # columns of a leaf, by the `leaf` of its entry; a set that was used is never changed
    1: (
        "id", "key", "trace_id", "class_name", "image_id", "image_path", "captured_at", "received_at",
        "capture_suspect", "source", "frame_group", "is_first", "review_share", "review_drawn", "candidate", "legacy",
        "answered_by", "candidate_score", "candidate_threshold", "candidate_alarm", "candidate_latency_ms",
        "candidate_error", "legacy_score", "legacy_threshold", "legacy_alarm", "legacy_latency_ms", "legacy_error",
    ),
}  # fmt: skip
_LEAF = max(LEAF_COLUMNS)
_AT_ONCE = 250_000  # pairs that one tick seals, a few seconds; the first tick after an upgrade finds all of them
_HOUR = len("2026-01-05T06")
_CHUNK = 10_000  # pairs between two steps of the progress bar
_PATIENCE_S = 5  # wait for a writer of pairs that does not finish

Place = tuple[str, str]  # class, hour


def received() -> InstrumentedAttribute[datetime]:
    """The column by whose hour pairs are sealed: when the server received the image."""
    return PairRow.received_at


@dataclass(frozen=True)
class Seal:
    """One batch, as its entry states it."""

    statement: Statement
    place: Place
    count: int
    root: str
    last_id: int
    next_id: int
    leaf: int


@dataclass(frozen=True)
class PairsReport:
    """All pairs, compared with the chain."""

    table: TableReport
    num_batches: int
    num_late: int  # pairs in batches beyond the first of their hour: recorded late, or too many for one tick


# --- sealing --------------------------------------------------------------------------------------------------------


def seal_pairs(chain: Chain, now: datetime) -> int:
    """Note the batches of all hours that have settled, and seal the notes; returns the number of pairs in them.

    Pairs are read concurrently with their writers, which wait only while the notes are written.
    """
    settled = _last_settled(chain.engine)
    gathered = _gather(chain.engine, settled, now)
    if not gathered.batches or not _note(chain, gathered, settled, now):
        return 0
    chain.seal()
    return sum(batch.tree.num_leaves for batch in gathered.batches.values())


def seal_pairs_if_possible(chain: Chain, now: datetime) -> None:
    """`seal_pairs` for a tick, which must go on: an error is logged, and the next tick tries again."""
    try:
        seal_pairs(chain, now)
    except (ValueError, OSError, SQLAlchemyError) as error:
        log.error("audit: pairs not sealed, tried again at the next tick: %s", mask(" ".join(str(error).split())))


@dataclass
class _Batch:
    tree: Tree
    last_id: int


def _latest(connection: Connection, settled: int) -> Seal | None:
    """The batch that was noted last. Notes that are no possible batch are skipped, even if they are sealed by now."""
    seals = map(seal_of, read_latest(connection, EntryKind.PAIRS))
    return next((seal for seal in seals if seal is not None and seal.next_id <= settled + 1), None)


def _last_settled(engine: Engine) -> int:
    """The last id; no smaller one comes later. PostgreSQL gives ids before it commits: so this waits for writers."""
    query = select(func.max(PairRow.id))
    if engine.dialect.name != "postgresql":
        with reading(engine) as connection:
            return int(connection.execute(query).scalar() or 0)
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{_PATIENCE_S}s'"))
        connection.execute(text(f"LOCK TABLE {PairRow.__tablename__} IN SHARE MODE"))
        return int(connection.execute(query).scalar() or 0)


@dataclass(frozen=True)
class _Gathered:
    batches: Mapping[Place, _Batch]
    before: Seal | None  # the batch that was noted last
    next_id: int  # the smallest id that they leave unsealed


def _gather(engine: Engine, settled: int, now: datetime) -> _Gathered:
    cutoff = (now.astimezone(UTC) - SETTLING).replace(minute=0, second=0, microsecond=0)
    batches: dict[Place, _Batch] = {}
    sealed: dict[Place, int] = {}
    with reading_any_text(engine) as connection:
        before = _latest(connection, settled)
        within = (PairRow.id >= (before.next_id if before else 0), PairRow.id <= settled)
        first_open = connection.execute(select(func.min(PairRow.id)).where(*within, received() >= cutoff)).scalar()
        num_read, last_read = 0, settled
        for values in _read(
            connection,
            lambda query: query.where(*within, received() < cutoff).order_by(PairRow.id).limit(_AT_ONCE),
        ):
            num_read, last_read = num_read + 1, values[_ID]
            place = _place_of(values)
            if place not in sealed:
                sealed[place] = max((seal.last_id for seal in _seals(connection, *place)), default=0)
            if last_read > sealed[place]:
                batch = batches.setdefault(place, _Batch(Tree(), 0))
                batch.tree.add(_leaf(_LEAF, values))
                batch.last_id = last_read
    next_id = last_read + 1 if num_read == _AT_ONCE else settled + 1
    return _Gathered(batches, before, next_id if first_open is None else min(next_id, first_open))


def _note(chain: Chain, gathered: _Gathered, settled: int, now: datetime) -> bool:
    """False where another tick has sealed meanwhile: nothing is noted."""
    with chain.alone() as connection:
        if _latest(connection, settled) != gathered.before:
            return False
        chain.note(connection, _records(gathered, now))
    return True


def _records(gathered: _Gathered, now: datetime) -> Iterator[Record]:
    for (class_name, hour), batch in sorted(gathered.batches.items()):
        body = {
            "hour": hour,
            "count": batch.tree.num_leaves,
            "root": batch.tree.root().hex(),
            "last_id": batch.last_id,
            "next_id": gathered.next_id,
            "leaf": _LEAF,
        }
        yield Record(EntryKind.PAIRS, class_name, body, ENGINE, now)


def _seals(connection: Connection, class_name: str, hour: str) -> Iterator[Seal]:
    """The batches of one class and hour."""
    seals = (
        seal_of(statement) for statement in read_statements(connection, [EntryKind.PAIRS], class_name, containing=hour)
    )
    return (seal for seal in seals if seal is not None and seal.place[1] == hour)


# --- verifying ------------------------------------------------------------------------------------------------------


def compare_pairs(engine: Engine, progress: Progress) -> PairsReport:
    """Compute every root again, in one snapshot; a difference names class and hour.

    Pairs of hours that are not sealed yet are pending.
    """
    with reading_any_text(engine) as connection:
        seals, garbage = _all_seals(connection)
        check = _Check(seals)
        total = int(connection.execute(select(func.count()).select_from(PairRow)).scalar_one())
        with progress.task("pairs", total=total) as task:
            for counted, values in enumerate(_read(connection, lambda query: query.order_by(PairRow.id)), start=1):
                check.add(values)
                if counted % _CHUNK == 0:
                    task.advance(_CHUNK)
    differences = [*garbage, *check.differences()]
    num_noted = sum(check.trees[tree].num_leaves for tree in check.trees if check.seals[tree].statement.number is None)
    late = sum(batch.count for batches in seals.values() for batch in batches[1:])
    table = TableReport(PairRow.__tablename__, check.num_rows, 0, check.num_unsealed + num_noted, tuple(differences))
    return PairsReport(table, sum(map(len, seals.values())), late)


class _Check:
    """Builds the tree of each batch again, pair by pair."""

    def __init__(self, seals: Mapping[Place, Sequence[Seal]]) -> None:
        self._by_place = seals
        self._next_id = max((seal.next_id for batches in seals.values() for seal in batches), default=0)
        self.seals = {(batch.place, batch.last_id): batch for batches in seals.values() for batch in batches}
        self.trees: dict[tuple[Place, int], Tree] = defaultdict(Tree)
        self.num_rows = self.num_unsealed = 0
        self._left_out: dict[Place, int] = defaultdict(int)

    def add(self, values: Sequence[Any]) -> None:
        place, number = _place_of(values), values[_ID]
        self.num_rows += 1
        batch = next((seal for seal in self._by_place.get(place, ()) if number <= seal.last_id), None)
        if batch is not None:
            self.trees[place, batch.last_id].add(_leaf(batch.leaf, values))
        elif number < self._next_id:
            self._left_out[place] += 1
        else:
            self.num_unsealed += 1

    def differences(self) -> Iterator[Difference]:
        for key, seal in self.seals.items():
            tree = self.trees.get(key) or Tree()
            if (tree.num_leaves, tree.root().hex()) != (seal.count, seal.root):
                computed = f"{tree.num_leaves} pairs with root {tree.root().hex()[:12]}…"
                signed = f"{seal.count} pairs with root {seal.root[:12]}…"
                yield _difference(seal.place, signed, computed, seal.statement.number)
        for place, number in self._left_out.items():
            yield _difference(place, "no entry", f"{number} pairs that were not there when later ones were sealed")


def _difference(place: Place, signed: str, found: str, entry: int | None = None) -> Difference:
    class_name, hour = place
    return Difference(PairRow.__tablename__, "batch", f"{class_name!a} in hour {hour!a}", signed, found, entry, hour)


def _all_seals(connection: Connection) -> tuple[dict[Place, list[Seal]], list[Difference]]:
    """Class and hour → its batches, in order; and a difference for each statement that is no possible next batch."""
    seals: dict[Place, list[Seal]] = defaultdict(list)
    garbage = []
    for statement in read_statements(connection, [EntryKind.PAIRS]):
        seal = seal_of(statement)
        if seal is None:
            garbage.append(_difference((statement.subject, "unknown"), f"{statement.name} names no batch", "", None))
        elif seals[seal.place] and seal.last_id <= seals[seal.place][-1].last_id:
            signed = f"a batch up to id {seals[seal.place][-1].last_id}"
            garbage.append(_difference(seal.place, signed, f"another up to id {seal.last_id} in {statement.name}"))
        else:
            seals[seal.place].append(seal)
    return seals, garbage


def seal_of(statement: Statement) -> Seal | None:
    """The batch of a statement; None for a malformed one: that can only be a note, since anybody may write notes."""
    facts = statement.facts
    numbers = [facts.get(name) for name in ("count", "last_id", "next_id", "leaf")]
    hour, root = facts.get("hour"), facts.get("root")
    if not (all(type(number) is int for number in numbers) and isinstance(hour, str) and isinstance(root, str)):
        return None
    count, last_id, next_id, leaf = map(int, (number or 0 for number in numbers))
    return (
        Seal(statement, (statement.subject, hour), count, root, last_id, next_id, leaf)
        if leaf in LEAF_COLUMNS
        else None
    )


# --- leaves ---------------------------------------------------------------------------------------------------------


_COLUMNS = list(PairRow.__table__.columns)
_PLACES = {column.name: place for place, column in enumerate(_COLUMNS)}
_ID, _CLASS, _RECEIVED = _PLACES["id"], _PLACES["class_name"], _PLACES[received().key]
_PICK = {leaf: itemgetter(*(_PLACES[name] for name in names)) for leaf, names in LEAF_COLUMNS.items()}


def _read(connection: Connection, chosen: Callable[[Select[Any]], Select[Any]]) -> Iterator[list[Any]]:
    """All columns of the chosen pairs."""
    return plain_values(connection, _COLUMNS, chosen)


def _place_of(values: Sequence[Any]) -> Place:
    return str(values[_CLASS]), str(values[_RECEIVED])[:_HOUR]


def _leaf(leaf: int, values: Sequence[Any]) -> bytes:
    return json.dumps(_PICK[leaf](values), separators=(",", ":"), default=repr).encode()
