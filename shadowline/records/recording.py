"""Recording of pairs: which of them are new, and which frame group each belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select, text
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from shadowline.data.near_duplicates import FrameGroups, FrameRule
from shadowline.records.pair import Models, Pair
from shadowline.records.tables import PairRow

_CHUNK = 1_000  # rows per statement


def by_models(class_name: str, candidate: str, legacy: str) -> tuple[ColumnElement[bool], ...]:
    return PairRow.class_name == class_name, PairRow.candidate == candidate, PairRow.legacy == legacy


def new_among(pairs: Sequence[Pair], connection: Connection) -> list[Pair]:
    """The pairs that are not on record; of several with the same key the first."""
    by_key = {pair.key: pair for pair in reversed(pairs)}
    on_record = {key for (key,) in _look_up(connection, select(PairRow.key), PairRow.key, list(by_key))}
    return [pair for pair in pairs if by_key[pair.key] is pair and pair.key not in on_record]


def insert_pairs(connection: Connection, rows: Sequence[dict[str, Any]]) -> int:
    insert_into = postgres_insert if connection.dialect.name == "postgresql" else sqlite_insert
    statement = insert_into(PairRow).on_conflict_do_nothing(index_elements=["key"])
    counted = {"preserve_rowcount": True}
    return sum(
        connection.execute(statement, rows[start : start + _CHUNK], execution_options=counted).rowcount
        for start in range(0, len(rows), _CHUNK)
    )


def wait_for_other_recorders(connection: Connection, models: Models) -> None:
    """One process at a time decides which frames of these models are the first; SQLite has one writer anyhow."""
    if connection.dialect.name == "postgresql":
        digest = hashlib.sha256("\n".join(("pairs", *models)).encode()).digest()
        number = int.from_bytes(digest[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def _look_up(
    connection: Connection, query: Select[Any], column: ColumnElement[str] | Any, values: Sequence[str]
) -> Iterator[Any]:
    """The rows whose `column` holds one of the values."""
    for start in range(0, len(values), _CHUNK):
        yield from connection.execute(query.where(column.in_(values[start : start + _CHUNK])))


def frame_groups(connection: Connection, new: Sequence[Pair], frames: FrameRule | None) -> FrameGroups:
    """The recorded frame groups that new pairs of one class and two models may belong to."""
    same = by_models(*new[0].models)
    images = list({pair.image_id for pair in new})
    query = select(PairRow.image_id, PairRow.frame_group).where(*same).distinct()
    group_by_image = dict(_look_up(connection, query, PairRow.image_id, images))
    recent: list[tuple[str, bytes]] = []
    if frames is not None and any(pair.frame_signature for pair in new):
        newest = select(PairRow.image_id, PairRow.frame_signature).where(
            *same, PairRow.__table__.c.is_first, PairRow.frame_signature.is_not(None)
        )
        rows = connection.execute(newest.order_by(PairRow.id.desc()).limit(frames.window)).all()
        recent = [(image_id, signature) for image_id, signature in reversed(rows)]
    return FrameGroups(frames, group_by_image, recent)
