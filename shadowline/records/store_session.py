"""What the stores of one database share: the engine, the audit log, and how they read and write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.entry import Record
from shadowline.records.database import reading


@dataclass(frozen=True)
class StoreSession:
    """One database and its audit chain; stores that are given the same session write into the same chain."""

    engine: Engine
    chain: Chain

    def reading(self) -> Connection:
        """A connection that writes nothing, waits for no writer, and sees one snapshot in all its queries."""
        return reading(self.engine)

    @contextmanager
    def on_record(self) -> Iterator[Connection]:
        """A transaction whose notes for the audit chain are sealed right after it; it waits for no key."""
        with self.engine.begin() as connection:
            yield connection
        self.chain.seal_if_possible()

    def note(self, connection: Connection, records: Iterable[Record]) -> None:
        """Keep entries for the audit chain in the caller's transaction until they are sealed."""
        self.chain.note(connection, records)

    def insert(self, table: Any) -> Any:
        """An INSERT of the database's dialect, which supports ON CONFLICT."""
        return (postgres_insert if self.engine.dialect.name == "postgresql" else sqlite_insert)(table)
