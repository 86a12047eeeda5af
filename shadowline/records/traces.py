"""What the database holds of one inspected part: its pairs by trace id, and the labels of its image. Reads only.

stored = pairs_of_trace(engine, "line-7.0042")
labels_of(engine, "bolt", stored[0].pair.image_id)
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
    """A pair, and the columns that were stored although they follow from it."""

    pair: Pair
    key: str
    alarms: dict[Side, bool | None]

    @property
    def received_at(self) -> datetime:
        assert self.pair.received_at is not None  # every row has one
        return self.pair.received_at


@dataclass(frozen=True)
class LabelEvent:
    """One label that an inspector gave to an image."""

    label: str
    by: str
    at: datetime
    note: str
    superseded: bool


def pairs_of_trace(engine: Engine, trace_id: str) -> tuple[StoredPair, ...]:
    """Pairs in the order in which they were recorded, without those decided again later, which answered no request.

    Raises ValueError for a row that no inspection writes.
    """
    inspected = (PairRow.trace_id == trace_id, PairRow.source.not_in(REDECIDED))
    query = select(PairRow.__table__).where(*inspected).order_by(PairRow.id)
    with reading(engine) as connection:
        return tuple(_stored(row) for row in connection.execute(query))


def labels_of(engine: Engine, class_name: str, image_id: str) -> tuple[LabelEvent, ...]:
    """The labels of one image, the latest last."""
    query = select(FeedbackRow.__table__).where(FeedbackRow.class_name == class_name, FeedbackRow.image_id == image_id)
    with reading(engine) as connection:
        rows = connection.execute(query.order_by(FeedbackRow.id)).all()
    return tuple(LabelEvent(row.label, row.by, row.at, row.note, row.superseded) for row in rows)


def words_by_image(engine: Engine, class_name: str) -> dict[str, tuple[LabelEvent, ...]]:
    """The labels of every labelled image of a class; of each image, the latest last."""
    query = select(FeedbackRow.__table__).where(FeedbackRow.class_name == class_name).order_by(FeedbackRow.id)
    labels: dict[str, tuple[LabelEvent, ...]] = {}
    with reading(engine) as connection:
        for row in connection.execute(query):
            label = LabelEvent(row.label, row.by, row.at, row.note, row.superseded)
            labels[row.image_id] = (*labels.get(row.image_id, ()), label)
    return labels


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
    """The decision of one model; None where it was not asked."""
    score, threshold, latency_ms, error = (getattr(row, f"{side}_{name}") for name in _SAID)
    if (score, threshold, error) == (None, None, None):
        return None
    return ModelDecision(score, threshold, latency_ms, error)
