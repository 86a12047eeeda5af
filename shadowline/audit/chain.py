"""The audit chain in SQL: noted with what it is about, in one transaction; signed and linked right after.

    chain = Chain(open_database(url), open_keys())
    with engine.begin() as connection:                     # the change and its note: both or neither
        connection.execute(…)
        chain.note(connection, [Record(Kind.APPROVAL, "bolt", {"target": "canary"}, "Ada", now)])
    chain.seal()                                           # what is noted gets its place and its signature
    chain.append(Record(…))                                # both at once, for what is in no other table

No key is needed to note, so that a rollback never waits for one; what a kill leaves noted, the next seal takes in.
Entries are never updated or deleted: triggers refuse it, and a signature shows it where they were removed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from shadowline.audit.entry import FIELDS, Entry, Kind, Note, Record, Soundness, Walk, next_entry, timestamp
from shadowline.audit.keys import FIRST_KEY, Key, KeyFolder
from shadowline.progress import Progress
from shadowline.records.database import reading
from shadowline.records.tables import AuditEntryRow, AuditNoteRow

log = logging.getLogger(__name__)
_LOCK = 728_914  # any fixed number; PostgreSQL's advisory lock
_CHUNK = 10_000  # entries per round trip when the chain is read, and per transaction when it is sealed


class CutChainError(ValueError):
    """The chain ends before an entry that is known to have been written; nothing is added to it."""


class Chain:
    """The one chain of a database."""

    def __init__(self, engine: Engine, keys: KeyFolder) -> None:
        self.engine, self.keys = engine, keys

    # --- writing ---

    def note(self, connection: Connection, records: Iterable[Record]) -> None:
        """Keep records in the caller's transaction until they are sealed."""
        rows = [asdict(one.noted) for one in records]
        if rows:
            connection.execute(insert(AuditNoteRow), rows)

    def append(self, *records: Record) -> tuple[Entry, ...]:
        """Note and seal; returns what was sealed, which may hold what others had noted before."""
        with self.engine.begin() as connection:
            self.note(connection, records)
        return self.seal()

    def seal(self) -> tuple[Entry, ...]:
        """Give every note its place in the chain, in the order in which they were noted.

        Raises ValueError where the key is not at hand, and CutChainError where the chain was cut; the notes stay.
        """
        sealed: list[Entry] = []
        while new := self._seal_some():
            self.keys.remember(new[-1])
            sealed += new
        return tuple(sealed)

    def seal_if_possible(self) -> None:
        """The same for those whose work must go on: what hinders it is logged, and the notes wait for the next seal."""
        try:
            self.seal()
        except (ValueError, OSError, SQLAlchemyError) as error:
            log.error("audit: not sealed, tried again later: %s", error)

    def rotate(self, name: str, by: str) -> Entry:
        """From here on a new key signs, introduced by the one before; the very first introduces itself.

        Raises ValueError for a name that is none, or that a key of this chain has or had.
        """
        with self._alone() as connection:
            last = self._last(connection)
            if self._introduced(connection, name):
                raise ValueError(f"key '{name}' signs or signed this chain; choose another name")
            new = self._introduce(name, by, last, connection)
            self._insert(connection, [new])
        self.keys.remember(new)
        return new

    def _seal_some(self) -> list[Entry]:
        with self._alone() as connection:
            rows = connection.execute(select(AuditNoteRow).order_by(AuditNoteRow.id).limit(_CHUNK)).all()
            if not rows:
                return []
            last = self._last(connection)
            new = [] if last else [self._introduce(FIRST_KEY, rows[0].by, None, connection)]
            signer = self._signer(connection, last) if last else self.keys.load(FIRST_KEY)
            for row in rows:
                note = Note(row.at, row.by, row.kind, row.subject, row.body)
                new.append(next_entry(note, new[-1] if new else last, signer))
            self._insert(connection, new)
            connection.execute(delete(AuditNoteRow).where(AuditNoteRow.id.in_([row.id for row in rows])))
        return new

    def _introduce(self, name: str, by: str, last: Entry | None, connection: Connection) -> Entry:
        """The entry of a key, which is made unless a kill left it behind."""
        key = self.keys.load(name) if name in self.keys.public() else self.keys.create(name)
        signer = self._signer(connection, last) if last else key
        body = {"public_key": key.public, "replaces": signer.name if last else None}
        return next_entry(Record(Kind.KEY, name, body, by, datetime.now(UTC)).noted, last, signer)

    def _signer(self, connection: Connection, last: Entry) -> Key:
        """The key that has to sign what follows `last`."""
        return self.keys.load(last.subject if last.kind == Kind.KEY else last.key)

    def _insert(self, connection: Connection, entries: Sequence[Entry]) -> None:
        connection.execute(insert(AuditEntryRow), [asdict(one) for one in entries])

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A transaction that no other writer of the chain runs beside; SQLite has one writer anyhow."""
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            yield connection

    def _last(self, connection: Connection) -> Entry | None:
        """Raises CutChainError where more is known to have been written."""
        row = connection.execute(select(AuditEntryRow).order_by(AuditEntryRow.number.desc()).limit(1)).first()
        last, head = _entry(row) if row else None, self.keys.head
        number = last.number if last else 0
        if head is not None and (head.number > number or (last and head.number == number and head.hash != last.hash)):
            raise CutChainError(
                f"entry {head.number} was written with the keys in {self.keys.folder}, and this database ends with "
                f"entry {number}; restore it from a backup, or give it keys of its own (SHADOWLINE_AUDIT_KEYS)"
            )
        return last

    def _introduced(self, connection: Connection, name: str) -> bool:
        query = select(AuditEntryRow.number).where(AuditEntryRow.kind == str(Kind.KEY), AuditEntryRow.subject == name)
        return connection.execute(query).first() is not None

    # --- reading ---

    def entries(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Iterable[Kind] = (),
        subject: str = "",
    ) -> Iterator[Entry]:
        """In order; of a span of time (`since` included, `until` not), of some kinds, about one subject."""
        query = select(AuditEntryRow).order_by(AuditEntryRow.number)
        query = query.where(AuditEntryRow.at >= timestamp(since)) if since else query
        query = query.where(AuditEntryRow.at < timestamp(until)) if until else query
        chosen = [str(kind) for kind in kinds]
        query = query.where(AuditEntryRow.kind.in_(chosen)) if chosen else query
        query = query.where(AuditEntryRow.subject == subject) if subject else query
        with reading(self.engine) as connection:
            streamed = connection.execution_options(yield_per=_CHUNK).execute(query)
            yield from (_entry(row) for row in streamed)

    def num_noted(self) -> int:
        """Notes that wait to be sealed."""
        with reading(self.engine) as connection:
            return int(connection.execute(select(func.count()).select_from(AuditNoteRow)).scalar_one())

    def verify(self, progress: Progress) -> Soundness:
        """Walk along the whole chain with the keys of the folder, and look for what it is known to have held."""
        head, num_entries = self.keys.head, self._count()
        walk, found, witnessed = Walk(self.keys.public()), Soundness(0, None), head is None
        with progress.task("audit chain", total=num_entries) as task:
            entries = self.entries()
            while chunk := list(islice(entries, _CHUNK)):
                found = walk.check(chunk)
                if not found.sound:
                    return found
                witnessed = witnessed or any(
                    (one.number, one.hash) == (head.number, head.hash) for one in chunk if head
                )
                task.advance(len(chunk))
        if witnessed or head is None:
            return found
        missing = min(found.num_entries + 1, head.number)
        return replace(found, first_bad=missing, reason=f"entry {head.number} was written, and is no longer there")

    def _count(self) -> int:
        with reading(self.engine) as connection:
            return int(connection.execute(select(func.count()).select_from(AuditEntryRow)).scalar_one())


def _entry(row: Any) -> Entry:
    return Entry(*(getattr(row, name) for name in FIELDS))
