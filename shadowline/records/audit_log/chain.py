"""The audit log in SQL: a note is written in the transaction of the change, and signed and linked right after.

    chain = Chain(open_database(url), open_keys())
    with engine.begin() as connection:                     # the change and its note: both or neither
        connection.execute(…)
        chain.note(connection, [Record(EntryKind.APPROVAL, "bolt", {"target": "canary"}, "Ada", now)])
    chain.seal()                                           # every note gets its number, hash and signature
    chain.append(Record(…))                                # both at once, for events that are in no other table

Writing a note needs no key, so that a rollback never waits for one; notes that a killed process leaves are sealed by
the next seal. Entries are never updated or deleted: triggers refuse it, and where the triggers were removed, signatures
reveal it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from shadowline.core.progress import Progress
from shadowline.core.secrets import mask
from shadowline.records.audit_log.chain_heads import HeadPlace
from shadowline.records.audit_log.entry import (
    FIELDS,
    ChainVerification,
    ChainVerifier,
    Entry,
    EntryKind,
    PendingEntry,
    Record,
    next_entry,
    timestamp,
)
from shadowline.records.audit_log.keys import FIRST_KEY, KeyFolder, SigningKey
from shadowline.records.database import reading, reading_any_text
from shadowline.records.tables import AuditEntryRow, AuditNoteRow

log = logging.getLogger(__name__)
_LOCK = 728_914  # any fixed number; PostgreSQL's advisory lock
_CHUNK = 10_000  # entries per round trip when the chain is read
_SEALED = 1_000  # notes per transaction, which other writers of a SQLite file wait for
_NO_KEY = "audit: a key is introduced by `Chain.rotate`, and noted by nobody else"


class TruncatedChainError(ValueError):
    """The chain ends before an entry that is known to have been written; nothing is added to it."""


@dataclass(frozen=True)
class ChainAnchor:
    """Number and hash of an entry, known outside of the database."""

    number: int
    hash: str
    name: str  # of the witness, for people

    @property
    def complaint(self) -> str:
        """The message where its entry is missing."""
        return f"entry {self.number} was written, as {self.name} knows, and is no longer there"


class Chain:
    """The audit log of a database, as a chain of entries."""

    def __init__(self, engine: Engine, keys: KeyFolder, heads: HeadPlace | None = None) -> None:
        """`heads`: a place outside of the database to which the last entry's number and hash are copied."""
        self.engine, self.keys, self.heads = engine, keys, heads

    # --- writing ---

    def note(self, connection: Connection, records: Iterable[Record]) -> None:
        """Keep records in the caller's transaction until they are sealed."""
        rows = [vars(record.noted) for record in records]
        if any(row["kind"] == EntryKind.KEY for row in rows):
            raise ValueError(_NO_KEY)
        if rows:
            connection.execute(insert(AuditNoteRow), rows)

    def append(self, *records: Record) -> tuple[Entry, ...]:
        """Note and seal records, both or neither; returns all entries sealed, including earlier notes of others.

        Raises as `seal` does.
        """
        earlier, own = self.seal(), list[Entry]()
        with self.alone() as connection:
            self.note(connection, records)
            while new := self._seal_some(connection):
                own += new
        self._remember(own)
        self.tell_heads()
        return (*earlier, *own)

    def append_if_possible(self, *records: Record) -> tuple[Entry, ...]:
        """`append` for callers that must go on: an error is logged, and the notes wait for the next seal."""
        try:
            return self.append(*records)
        except (ValueError, OSError, SQLAlchemyError) as error:
            _complain(error)
        with self.engine.begin() as connection:
            self.note(connection, records)
        return ()

    def seal(self) -> tuple[Entry, ...]:
        """Append every note to the chain, in the order in which they were noted.

        Raises ValueError where the key is not available, or a note would introduce another key, and TruncatedChainError
        where the chain was cut; the notes stay.
        """
        sealed: list[Entry] = []
        while self.num_noted():
            with self.alone() as connection:
                new = self._seal_some(connection)
            self._remember(new)
            sealed += new
        return tuple(sealed)

    def seal_if_possible(self) -> None:
        """`seal` for callers that must go on: an error is logged."""
        try:
            self.seal()
        except (ValueError, OSError, SQLAlchemyError) as error:
            _complain(error)

    def tell_heads(self) -> None:
        """Copy the last entry's number and hash to the place of the heads, where one is configured.

        `seal` does not do this: a rollback waits for no other machine. An unreachable place is logged; a later head
        covers all entries before it.
        """
        try:
            head = self.keys.head
            if self.heads is not None and head is not None:
                self.heads.keep(head)
        except ValueError as error:
            log.error("audit: the last entry is not copied, tried again with the next: %s", error)

    def rotate(self, name: str, by: str) -> Entry:
        """Introduce a key that signs from here on, in an entry signed with the key before; the first key signs its own.

        Raises ValueError for an invalid name, or the name of a key that this chain has or had.
        """
        with self.alone() as connection:
            last = self._last(connection)
            if self._introduced(connection, name):
                raise ValueError(f"key '{name}' signs or signed this chain; choose another name")
            new = self._introduce(name, by, last)
            self._insert(connection, [new])
        self._remember([new])
        return new

    def _seal_some(self, connection: Connection) -> list[Entry]:
        rows = connection.execute(select(AuditNoteRow).order_by(AuditNoteRow.id).limit(_SEALED)).all()
        if not rows:
            return []
        last = self._last(connection)
        new = [] if last else [self._introduce(FIRST_KEY, rows[0].by, None)]
        signer = self._signer(last or new[0])
        for row in rows:
            if row.kind == EntryKind.KEY:  # otherwise whoever can write notes could get a key of their own signed
                raise ValueError(f"{_NO_KEY}; note {row.id} does: find out who wrote it, and remove it")
            note = PendingEntry(row.at, row.by, row.kind, row.subject, row.body)
            new.append(next_entry(note, new[-1] if new else last, signer))
        self._insert(connection, new)
        connection.execute(delete(AuditNoteRow).where(AuditNoteRow.id.in_([row.id for row in rows])))
        return new

    def _remember(self, written: Sequence[Entry]) -> None:
        """After the transaction, store the head in the key folder. A failure is logged: the entries are written."""
        try:
            for last in written[-1:]:
                self.keys.remember(last)
        except ValueError as error:
            log.error("audit: %s", error)

    def _introduce(self, name: str, by: str, last: Entry | None) -> Entry:
        """The entry that introduces a key; the key is created unless a killed process has left it."""
        signer = self._signer(last) if last else None
        key = self.keys.obtain(name)
        body = {"public_key": key.public, "replaces": signer.name if signer else None}
        return next_entry(Record(EntryKind.KEY, name, body, by, datetime.now(UTC)).noted, last, signer or key)

    def _signer(self, last: Entry) -> SigningKey:
        """The key that has to sign the entry after `last`."""
        return self.keys.load(last.subject if last.kind == EntryKind.KEY else last.key)

    def _insert(self, connection: Connection, entries: Sequence[Entry]) -> None:
        connection.execute(insert(AuditEntryRow), [vars(entry) for entry in entries])

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction that excludes other writers of the chain; SQLite has one writer anyhow."""
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            yield connection

    def _last(self, connection: Connection) -> Entry | None:
        """The last entry. Raises TruncatedChainError where the entry that the key folder remembers is missing."""
        query, head = select(AuditEntryRow).order_by(AuditEntryRow.number.desc()).limit(1), self.keys.head
        row = connection.execute(query).first()
        if head is not None and _hash_of(connection, head.number) != head.hash:
            raise TruncatedChainError(
                f"audit chain: entry {head.number} was written with the keys in {self.keys.folder}, and is not in this "
                f"database; restore it from a backup, or give it keys of its own (SHADOWLINE_AUDIT_KEYS)"
            )
        return _entry(row) if row else None

    def _introduced(self, connection: Connection, name: str) -> bool:
        query = select(AuditEntryRow.number).where(
            AuditEntryRow.kind == str(EntryKind.KEY), AuditEntryRow.subject == name
        )
        return connection.execute(query).first() is not None

    # --- reading ---

    def entries(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Iterable[EntryKind] = (),
        subject: str = "",
        first: int = 1,
        last: int | None = None,
    ) -> Iterator[Entry]:
        """Entries in order, by time (`since` included, `until` not), kinds, subject and numbers (both included)."""
        query = select(AuditEntryRow).order_by(AuditEntryRow.number)
        query = query.where(AuditEntryRow.number >= first) if first > 1 else query
        query = query.where(AuditEntryRow.number <= last) if last is not None else query
        query = query.where(AuditEntryRow.at >= timestamp(since)) if since else query
        query = query.where(AuditEntryRow.at < timestamp(until)) if until else query
        chosen = [str(kind) for kind in kinds]
        query = query.where(AuditEntryRow.kind.in_(chosen)) if chosen else query
        query = query.where(AuditEntryRow.subject == subject) if subject else query
        with reading_any_text(self.engine) as connection:
            streamed = connection.execution_options(yield_per=_CHUNK).execute(query)
            yield from (_entry(row) for row in streamed)

    def latest(self, kind: EntryKind, subject: str = "") -> PendingEntry | None:
        """The latest note or entry of a kind, about one subject or any."""
        with reading(self.engine) as connection:
            for table, order in ((AuditNoteRow, AuditNoteRow.id), (AuditEntryRow, AuditEntryRow.number)):
                query = select(table).where(table.kind == str(kind)).order_by(order.desc()).limit(1)
                row = connection.execute(query.where(table.subject == subject) if subject else query).first()
                if row is not None:
                    return PendingEntry(row.at, row.by, row.kind, row.subject, row.body)
        return None

    def num_noted(self) -> int:
        """Number of notes that wait to be sealed."""
        with reading(self.engine) as connection:
            return int(connection.execute(select(func.count()).select_from(AuditNoteRow)).scalar_one())

    def pending_since(self) -> str | None:
        """The time of the oldest note that waits to be sealed."""
        with reading(self.engine) as connection:
            oldest: str | None = connection.execute(select(func.min(AuditNoteRow.at))).scalar()
        return oldest

    def verify(
        self, progress: Progress, trusted: Mapping[str, str] | None = None, witnesses: Iterable[ChainAnchor] = ()
    ) -> ChainVerification:
        """Verify every entry of the chain, and that it holds every entry that a witness knows.

        `trusted`: name → public half of the first key at least, and of others that must occur; None: the keys in the
        key folder. The head in that folder is a witness too. Raises ValueError where no key is trusted.
        """
        verifier, num_entries = ChainVerifier(self._trusted(trusted)), self._count()
        verification, anchors = ChainVerification(0, None), [*self._own_witness(), *witnesses]
        unconfirmed, witnessed = {(anchor.number, anchor.hash): anchor for anchor in anchors}, 0
        with progress.task("audit chain", total=num_entries) as task:
            entries = self.entries()
            while chunk := list(islice(entries, _CHUNK)):
                verification = verifier.check(chunk)
                if not verification.sound:
                    return verification
                for entry in chunk if unconfirmed else ():
                    if unconfirmed.pop((entry.number, entry.hash), None):
                        witnessed = entry.number
                task.advance(len(chunk))
        verification = replace(
            verification, witnessed=max(witnessed, min(verification.num_entries, self._remembered()))
        )
        return _without_gaps(verification, list(unconfirmed.values()), sorted(set(trusted or ()) - verifier.introduced))

    def unacknowledged(self, witnesses: Iterable[ChainAnchor]) -> ChainAnchor | None:
        """The witness, or the key folder, of the earliest entry that is not in the database as it was written."""
        with reading(self.engine) as connection:
            lost = [
                anchor
                for anchor in (*self._own_witness(), *witnesses)
                if _hash_of(connection, anchor.number) != anchor.hash
            ]
        return min(lost, key=lambda anchor: anchor.number, default=None)

    def _trusted(self, given: Mapping[str, str] | None) -> Mapping[str, str]:
        keys = self.keys.public() if given is None else given
        if not keys and self._count():
            raise ValueError(
                f"audit chain: no public key in {self.keys.folder} to check it with; give --trust NAME=HEX, or the "
                "folder (SHADOWLINE_AUDIT_KEYS)"
            )
        return keys

    def _own_witness(self) -> list[ChainAnchor]:
        head = self.keys.head
        return [ChainAnchor(head.number, head.hash, str(self.keys.folder / "head.json"))] if head else []

    def _remembered(self) -> int:
        """Number of the last entry that the key folder knows, also if sealed during a verification; 0 if missing."""
        head = self.keys.head
        if head is None:
            return 0
        with reading(self.engine) as connection:
            return head.number if _hash_of(connection, head.number) == head.hash else 0

    def _count(self) -> int:
        with reading(self.engine) as connection:
            return int(connection.execute(select(func.count()).select_from(AuditEntryRow)).scalar_one())


def _without_gaps(
    verification: ChainVerification, unconfirmed: Sequence[ChainAnchor], missing_keys: Sequence[str]
) -> ChainVerification:
    """The verification; unsound where the entry of a witness is missing or a trusted key does not occur."""
    if unconfirmed:
        first = min(unconfirmed, key=lambda anchor: anchor.number)
        bad = min(verification.num_entries + 1, first.number)
        return replace(verification, first_bad=bad, reason=first.complaint)
    if missing_keys:
        reason = f"key '{missing_keys[0]}' is trusted, and no entry introduces it"
        return replace(verification, first_bad=verification.num_entries + 1, reason=reason)
    return verification


def _hash_of(connection: Connection, number: int) -> str | None:
    query = select(AuditEntryRow.hash).where(AuditEntryRow.number == number)
    entry_hash: str | None = connection.execute(query).scalar()
    return entry_hash


def _complain(error: Exception) -> None:
    log.error("audit: not sealed, tried again later: %s", mask(" ".join(str(error).split())))


def _entry(row: Any) -> Entry:
    return Entry(*(getattr(row, name) for name in FIELDS))
