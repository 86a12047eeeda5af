"""Rows of the records as plain JSON values, equal on SQLite and PostgreSQL, whatever somebody wrote into them.

    with reading_any_text(engine) as connection:
        for row in plain_rows(connection, ApprovalRow): row["by"], row["at"]

The types of the tables are not trusted: a value of another type than its column's comes back as it is stored, and
compares unequal to whatever was signed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Boolean, ColumnElement, Connection, Select, select, type_coerce
from sqlalchemy.sql.elements import KeyedColumnElement
from sqlalchemy.types import NullType

from shadowline.records.tables import Base, UtcDateTime

Convert = Callable[[Any], Any]
_CHUNK = 10_000  # rows per round trip
_SQLITE_TIME = "2026-01-05 06:00:00.000000"  # how SQLAlchemy writes a time, in UTC


def plain_rows(connection: Connection, table: type[Base]) -> Iterator[dict[str, Any]]:
    """Every row by its primary key, column name → value."""
    columns = list(table.__table__.columns)
    names, keys = [column.name for column in columns], list(table.__table__.primary_key)
    for values in plain_values(connection, columns, lambda query: query.order_by(*keys)):
        yield dict(zip(names, values, strict=True))


def plain_values(
    connection: Connection, columns: Sequence[KeyedColumnElement[Any]], chosen: Callable[[Select[Any]], Select[Any]]
) -> Iterator[list[Any]]:
    """The columns of the rows that `chosen` leaves, in its order."""
    query = chosen(select(*(type_coerce(column, NullType()).label(column.name) for column in columns)))
    converters = [(place, convert) for place, column in enumerate(columns) if (convert := _converter(column))]
    for raw in connection.execute(query.execution_options(yield_per=_CHUNK)):
        values = list(raw)
        for place, convert in converters:
            values[place] = convert(values[place])
        yield values


def plain_time(value: Any) -> Any:
    """UTC with microseconds, as `shadowline.records.audit_log.entry.timestamp` writes it."""
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.isoformat(timespec="microseconds")
    if isinstance(value, str) and len(value) == len(_SQLITE_TIME) and value[10] == " ":
        return f"{value[:10]}T{value[11:]}+00:00"
    return value


def _converter(column: ColumnElement[Any]) -> Convert | None:
    if isinstance(column.type, UtcDateTime):
        return plain_time
    if isinstance(column.type, JSON):
        return _plain_json
    return _plain_bool if isinstance(column.type, Boolean) else None


def _plain_bool(value: Any) -> Any:
    return bool(value) if value in (0, 1) else value


def _plain_json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
