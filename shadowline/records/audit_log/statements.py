"""Reads what entries and unsealed notes of the audit log state: the side with which the tables are compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from shadowline.records.audit_log.entry import EntryKind
from shadowline.records.tables import AuditEntryRow, AuditNoteRow

_CHUNK, _FEW = 10_000, 10  # rows per round trip
_TABLES: tuple[tuple[Any, Any], ...] = ((AuditEntryRow, AuditEntryRow.number), (AuditNoteRow, AuditNoteRow.id))


@dataclass(frozen=True)
class Statement:
    """One entry, or a note that is not sealed yet."""

    number: int | None  # of the entry; None: only noted
    kind: str
    subject: str
    by: str
    at: str  # UTC, as `entry.timestamp` writes it
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"entry {self.number}" if self.number else "a note that is not sealed yet"


def read_statements(
    connection: Connection, kinds: Iterable[EntryKind], subject: str = "", containing: str = ""
) -> Iterator[Statement]:
    """Statements of some kinds, in order; the notes come after the entries.

    `subject` and `containing`, where given: only those on one subject, and with a text in the body. A body that is no
    JSON object counts as empty.
    """
    for table, order in _TABLES:
        query = select(*_columns(table, order)).where(table.kind.in_([str(kind) for kind in kinds])).order_by(order)
        query = query.where(table.subject == subject) if subject else query
        query = query.where(table.body.contains(containing, autoescape=True)) if containing else query
        for row in connection.execute(query.execution_options(yield_per=_CHUNK)):
            yield _statement(row, table)


def read_latest(connection: Connection, kind: EntryKind) -> Iterator[Statement]:
    """Statements of a kind, the latest first; the notes come before the entries."""
    for table, order in reversed(_TABLES):
        of_kind = table.kind.concat("") == str(kind)  # avoids the index: read from the end, the first row comes soon
        query = select(*_columns(table, order)).where(of_kind).order_by(order.desc())
        for row in connection.execute(query.execution_options(yield_per=_FEW)):
            yield _statement(row, table)


def _columns(table: Any, order: Any) -> tuple[Any, ...]:
    return order, table.kind, table.subject, table.by, table.at, table.body


def _statement(row: Any, table: Any) -> Statement:
    number, kind, subject, by, at, body = row
    return Statement(number if table is AuditEntryRow else None, kind, subject, by, at, _facts(body))


def _facts(body: str) -> Mapping[str, Any]:
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
