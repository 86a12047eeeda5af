"""The work list of the inspectors: parts that wait for a label, each once, the oldest first.

for part in records.pairs.waiting_for_review("bolt"):
    part.image_id, part.reasons
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, and_, or_, select

from shadowline.records.tables import FeedbackRow, PairRow

_OF_PRODUCTION = ("line", "batch", "redecided")  # the label of other parts is known


class ReviewReason(StrEnum):
    """Why an inspector should look at a part."""

    DISAGREEMENT = "disagreement"  # one model raised an alarm and the other did not
    DRAWN = "drawn"  # by chance, with the probability of shadow.review_share
    ALARM = "alarm"  # of a model


@dataclass(frozen=True)
class WaitingPart:
    """A part that nobody has labelled."""

    class_name: str
    image_id: str
    trace_id: str
    image_path: str  # as it was recorded, or empty
    received_at: datetime  # UTC
    reasons: tuple[ReviewReason, ...]  # at least one


def waiting_parts(connection: Connection, class_name: str | None, limit: int) -> list[WaitingPart]:
    """The first `limit` parts that wait, of one class or of all."""
    parts: dict[tuple[str, str], WaitingPart] = {}
    for row in connection.execute(_waiting(class_name)):
        if len(parts) == limit:
            break
        parts.setdefault((row.class_name, row.image_id), _part(row))
    return list(parts.values())


def _waiting(class_name: str | None) -> Select[Any]:
    """A disagreement needs no condition of its own: one of the two models raised an alarm."""
    labelled = and_(
        FeedbackRow.class_name == PairRow.class_name,
        FeedbackRow.image_id == PairRow.image_id,
        ~FeedbackRow.superseded,
    )
    query = select(PairRow.__table__).join_from(PairRow, FeedbackRow, labelled, isouter=True)
    query = query.where(
        FeedbackRow.id.is_(None),
        PairRow.__table__.c.is_first,
        PairRow.source.in_(_OF_PRODUCTION),
        or_(PairRow.candidate_alarm.is_(True), PairRow.legacy_alarm.is_(True), PairRow.review_drawn),
    )
    if class_name is not None:
        query = query.where(PairRow.class_name == class_name)
    return query.order_by(PairRow.received_at, PairRow.id)


def _part(row: Any) -> WaitingPart:
    alarms = (row.candidate_alarm, row.legacy_alarm)
    holds = {
        ReviewReason.DISAGREEMENT: None not in alarms and alarms[0] != alarms[1],
        ReviewReason.DRAWN: row.review_drawn,
        ReviewReason.ALARM: any(alarms),
    }
    reasons = tuple(reason for reason, does in holds.items() if does)
    return WaitingPart(row.class_name, row.image_id, row.trace_id, row.image_path, row.received_at, reasons)
