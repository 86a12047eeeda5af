"""What the chain says, entry by entry, and what is noted and waits for its place: the side that state is held to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from shadowline.audit.entry import Kind
from shadowline.records.tables import AuditEntryRow, AuditNoteRow

_CHUNK = 10_000  # entries per round trip


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
    connection: Connection, kinds: Iterable[Kind], subject: str = "", containing: str = ""
) -> Iterator[Statement]:
    """Of some kinds, in order; the notes come after the entries. A body that is no JSON object counts as empty.

    Those on one subject, and with a text in the body, where these are given.
    """
    chosen = [str(kind) for kind in kinds]
    for table, order in ((AuditEntryRow, AuditEntryRow.number), (AuditNoteRow, AuditNoteRow.id)):
        query = select(order, table.kind, table.subject, table.by, table.at, table.body).where(table.kind.in_(chosen))
        query = query.where(table.subject == subject) if subject else query
        query = query.where(table.body.contains(containing, autoescape=True)) if containing else query
        rows = connection.execution_options(yield_per=_CHUNK).execute(query.order_by(order))
        for number, kind, about, by, at, body in rows:
            yield Statement(number if table is AuditEntryRow else None, kind, about, by, at, _facts(body))


def _facts(body: str) -> Mapping[str, Any]:
    try:
        facts = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
