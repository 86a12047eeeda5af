"""What the database holds of one inspected part: its pairs by trace id, and the words on its image. Reads only.

found = pairs_of_trace(engine, "line-7.0042")
labels_of(engine, "bolt", found[0].pair.image_id)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select

from shadowline.records.database import reading
from shadowline.records.pair import REDECIDED, ModelDecision, Pair, PairSource, Side
from shadowline.records.tables import FeedbackRow, PairRow

_SAID = ("score", "threshold", "latency_ms", "error")


@dataclass(frozen=True)
class StoredPair:
    """A pair, and what was stored beside it although it follows from it."""

    pair: Pair
    key: str
    alarms: dict[Side, bool | None]

    @property
    def received_at(self) -> datetime:
        assert self.pair.received_at is not None  # every row has one
        return self.pair.received_at


@dataclass(frozen=True)
class LabelEvent:
    """What an inspector said of an image."""

    label: str
    by: str
    at: datetime
    note: str
    superseded: bool


def pairs_of_trace(engine: Engine, trace_id: str) -> tuple[StoredPair, ...]:
    """In the order in which they were recorded, without what was decided again later, which answered nobody.

    Raises ValueError for a row that no inspection writes.
    """
    inspected = (PairRow.trace_id == trace_id, PairRow.source.not_in(REDECIDED))
    query = select(PairRow.__table__).where(*inspected).order_by(PairRow.id)
    with reading(engine) as connection:
        return tuple(_stored(row) for row in connection.execute(query))


def labels_of(engine: Engine, class_name: str, image_id: str) -> tuple[LabelEvent, ...]:
    """The latest last."""
    query = select(FeedbackRow.__table__).where(FeedbackRow.class_name == class_name, FeedbackRow.image_id == image_id)
    with reading(engine) as connection:
        rows = connection.execute(query.order_by(FeedbackRow.id)).all()
    return tuple(LabelEvent(row.label, row.by, row.at, row.note, row.superseded) for row in rows)


def words_by_image(engine: Engine, class_name: str) -> dict[str, tuple[LabelEvent, ...]]:
    """The words on every image of a class that has any; on each, the latest last."""
    query = select(FeedbackRow.__table__).where(FeedbackRow.class_name == class_name).order_by(FeedbackRow.id)
    words: dict[str, tuple[LabelEvent, ...]] = {}
    with reading(engine) as connection:
        for row in connection.execute(query):
            word = LabelEvent(row.label, row.by, row.at, row.note, row.superseded)
            words[row.image_id] = (*words.get(row.image_id, ()), word)
    return words


def first_captured(engine: Engine, class_name: str, image_ids: Collection[str]) -> dict[str, datetime]:
    """When each image was captured, by the first of its pairs."""
    query = select(PairRow.image_id, func.min(PairRow.captured_at)).where(PairRow.class_name == class_name)
    with reading(engine) as connection:
        rows = connection.execute(query.group_by(PairRow.image_id)).all()
    return {image_id: captured_at for image_id, captured_at in rows if image_id in image_ids}


def _stored(row: Any) -> StoredPair:
    pair = Pair(
        class_name=row.class_name,
        image_id=row.image_id,
        captured_at=row.captured_at,
        candidate=row.candidate,
        legacy=row.legacy,
        answered_by=row.answered_by,
        candidate_said=_said(row, "candidate"),
        legacy_said=_said(row, "legacy"),
        trace_id=row.trace_id,
        image_path=row.image_path,
        received_at=row.received_at,
        capture_suspect=row.capture_suspect,
        source=PairSource(row.source),
        frame_signature=row.frame_signature,
        review_share=row.review_share,
        review_drawn=row.review_drawn,
    )
    alarms: dict[Side, bool | None] = {"candidate": row.candidate_alarm, "legacy": row.legacy_alarm}
    return StoredPair(pair, row.key, alarms)


def _said(row: Any, side: Side) -> ModelDecision | None:
    """None where it was not asked."""
    score, threshold, latency_ms, error = (getattr(row, f"{side}_{name}") for name in _SAID)
    if (score, threshold, error) == (None, None, None):
        return None
    return ModelDecision(score, threshold, latency_ms, error)
