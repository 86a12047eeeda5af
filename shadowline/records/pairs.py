"""Pairs and feedback: written once, counted in the database.

pairs = open_records(url).pairs
pairs.record([pair, …], frame_rule)          # again with the same pairs: no effect
pairs.counts("bolt", candidate, legacy)      # what agreement is computed from
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, func, insert, select, update

from shadowline.data.labels import Label
from shadowline.data.near_duplicates import FrameRule
from shadowline.evaluation.agreement import PairCounts
from shadowline.evaluation.evidence import ANOMALOUS, NORMAL, UNLABELLED
from shadowline.records.audit_log.chain import Chain
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.database import reading
from shadowline.records.pair import REFERENCE_PART, Models, Pair
from shadowline.records.recording import by_models, frame_groups, insert_pairs, new_among, wait_for_other_recorders
from shadowline.records.review import WaitingPart, waiting_parts
from shadowline.records.tables import FeedbackRow, PairRow


def utc_now() -> datetime:
    return datetime.now(UTC)


class PairStore:
    """Pairs and feedback of all classes. Evidence is counted by the time of receipt, and a frame group counts once."""

    def __init__(self, engine: Engine, chain: Chain, clock: Callable[[], datetime] = utc_now) -> None:
        self.engine, self._chain, self._clock = engine, chain, clock

    def record(self, pairs: Sequence[Pair], frames: FrameRule | None = None) -> int:
        """Store pairs, all or none; returns how many were new. A pair that is there already is left as it is.

        `frames` says which images are near-identical; it may be missing only where no pair has a frame signature.
        """
        if frames is None and any(pair.frame_signature for pair in pairs):
            raise ValueError("pairs with frame signatures: give the rule that groups them, FrameRule.of(params.shadow)")
        now = self._clock()
        groups = groupby(sorted(pairs, key=_models), key=_models)  # in one order no two writers deadlock
        with self.engine.begin() as connection:
            return sum(self._record(connection, models, list(group), frames, now) for models, group in groups)

    def _record(
        self, connection: Connection, models: Models, pairs: Sequence[Pair], frames: FrameRule | None, now: datetime
    ) -> int:
        """Store the pairs of one class and two models, in their order; returns how many were new."""
        wait_for_other_recorders(connection, models)
        new = new_among(pairs, connection)
        if not new:
            return 0
        groups = frame_groups(connection, new, frames)
        rows = []
        for pair in new:
            frame_group, is_first = groups.assign(pair.image_id, pair.frame_signature)
            rows.append({**pair.to_row(now), "frame_group": frame_group, "is_first": is_first})
        num_new = insert_pairs(connection, rows)
        for pair in new:
            if pair.known_label is not None and not _is_labelled(connection, pair):
                at = pair.received_at or now
                self._put_label(connection, pair.class_name, pair.image_id, pair.known_label, REFERENCE_PART, at, "")
        return num_new

    def label(self, class_name: str, image_id: str, label: Label, by: str, at: datetime, note: str = "") -> int:
        """Put an inspector's label on record; it supersedes earlier labels of the same image. Returns its id.

        It is noted for the audit log, and sealed by the next tick.
        Raises ValueError for an image that is in no pair.
        """
        if label is Label.UNKNOWN:
            raise ValueError("feedback: label unknown says nothing; give normal or anomalous")
        with self.engine.begin() as connection:
            return self._put_label(connection, class_name, image_id, label, by, at, note)

    def _put_label(
        self, connection: Connection, class_name: str, image_id: str, label: Label, by: str, at: datetime, note: str
    ) -> int:
        same = and_(FeedbackRow.class_name == class_name, FeedbackRow.image_id == image_id)
        inspected = select(PairRow.id).where(PairRow.class_name == class_name, PairRow.image_id == image_id)
        locked = inspected.order_by(PairRow.id).limit(1).with_for_update()
        if connection.execute(locked).first() is None:
            raise ValueError(f"class {class_name!r}: image {image_id[:12]}… was never inspected; check the id")
        former = connection.execute(select(FeedbackRow.label).where(same, ~FeedbackRow.superseded)).scalar()
        connection.execute(update(FeedbackRow).where(same, ~FeedbackRow.superseded).values(superseded=True))
        row = {"class_name": class_name, "image_id": image_id, "label": str(label), "by": by, "at": at, "note": note}
        statement = insert(FeedbackRow).values(**row, superseded=False).returning(FeedbackRow.id)
        number = int(connection.execute(statement).scalar_one())
        noted = {"id": number, "image": image_id, "from": former, "to": str(label), "note": note}
        self._chain.note(connection, [Record(EntryKind.FEEDBACK, class_name, noted, by, at)])
        return number

    def waiting_for_review(self, class_name: str | None = None, limit: int = 100) -> list[WaitingPart]:
        """Parts that wait for a label, each once, the oldest first: of one class or of all."""
        with self._reading() as connection:
            return waiting_parts(connection, class_name, limit)

    def image_of(self, class_name: str, trace_id: str) -> str:
        """The image that a caller's trace id stands for. Raises ValueError for a trace id of no pair."""
        query = select(PairRow.image_id).where(PairRow.class_name == class_name, PairRow.trace_id == trace_id)
        with self._reading() as connection:
            image_id: str | None = connection.execute(query.order_by(PairRow.id.desc()).limit(1)).scalar()
        if image_id is None:
            raise ValueError(f"class {class_name!r}: trace {trace_id!r} is on no pair; check the id")
        return image_id

    def counts(
        self, class_name: str, candidate: str, legacy: str, since: datetime | None = None, until: datetime | None = None
    ) -> PairCounts:
        """Pairs in which both answered, by label and decisions, received after `since` and not after `until`."""
        chosen = (
            *_of(class_name, candidate, legacy, since, until),
            *_BOTH_ANSWERED,
        )
        cells = np.zeros((3, 2, 2), dtype=np.int64)
        columns = (_label(), PairRow.candidate_alarm, PairRow.legacy_alarm)
        query = _labelled(select(*columns, func.count()).where(*chosen)).group_by(*columns)
        with self._reading() as connection:
            for label, candidate_alarm, legacy_alarm, count in connection.execute(query):
                cells[_AXIS[label], int(candidate_alarm), int(legacy_alarm)] += count
        return PairCounts(cells)

    def labelled_images(self, class_name: str) -> frozenset[str]:
        """Ids of the images that have a label."""
        query = select(FeedbackRow.image_id).where(FeedbackRow.class_name == class_name)
        with self._reading() as connection:
            return frozenset(connection.execute(query).scalars())

    def known_keys(self, class_name: str, candidate: str, legacy: str) -> frozenset[str]:
        """The keys of all pairs of these two models."""
        query = select(PairRow.key).where(*by_models(class_name, candidate, legacy))
        with self._reading() as connection:
            return frozenset(connection.execute(query).scalars())

    def table(
        self, class_name: str, candidate: str, legacy: str, limit: int | None = None, *, disagreeing: bool = False
    ) -> pd.DataFrame:
        """Pairs with their labels, one per row, newest first; `disagreeing`: only evidence with differing decisions."""
        columns = [column for column in PairRow.__table__.columns if column.name not in ("id", "frame_signature")]
        chosen = by_models(class_name, candidate, legacy)
        if disagreeing:
            chosen += (PairRow.candidate_alarm != PairRow.legacy_alarm, _IS_FIRST)
        query = _labelled(select(*columns, _label().label("label")).where(*chosen))
        with self._reading() as connection:
            return pd.read_sql(query.order_by(PairRow.received_at.desc(), PairRow.id.desc()).limit(limit), connection)

    def scores(self, class_name: str, candidate: str, legacy: str) -> pd.DataFrame:
        """Both models' scores of the images that both judged, each once."""
        query = select(PairRow.candidate_score, PairRow.legacy_score).where(
            *_of(class_name, candidate, legacy, None, None),
            *_BOTH_ANSWERED,
        )
        with self._reading() as connection:
            rows = [tuple(row) for row in connection.execute(query)]  # numpy takes SQLAlchemy's rows field by field
        return pd.DataFrame(
            np.array(rows, dtype=np.float64).reshape(-1, 2), columns=["candidate_score", "legacy_score"]
        )

    def _reading(self) -> Connection:
        return reading(self.engine)


_IS_FIRST: ColumnElement[bool] = PairRow.__table__.c.is_first
_BOTH_ANSWERED = (PairRow.candidate_alarm.is_not(None), PairRow.legacy_alarm.is_not(None))
_AXIS: dict[str | None, int] = {None: UNLABELLED, Label.NORMAL: NORMAL, Label.ANOMALOUS: ANOMALOUS}


def _is_labelled(connection: Connection, pair: Pair) -> bool:
    same = and_(FeedbackRow.class_name == pair.class_name, FeedbackRow.image_id == pair.image_id)
    return connection.execute(select(FeedbackRow.id).where(same).limit(1)).first() is not None


def _label() -> ColumnElement[str | None]:
    return FeedbackRow.__table__.c.label


def _of(
    class_name: str, candidate: str, legacy: str, since: datetime | None, until: datetime | None
) -> tuple[ColumnElement[bool], ...]:
    """The evidence that was received after `since` and not after `until`: the first frame of each group."""
    chosen: list[ColumnElement[bool]] = [*by_models(class_name, candidate, legacy), _IS_FIRST]
    chosen += [PairRow.received_at > since] if since else []
    chosen += [PairRow.received_at <= until] if until else []
    return tuple(chosen)


def _labelled(query: Select[Any]) -> Select[Any]:
    """The query with the latest feedback on each image beside it."""
    same = and_(
        FeedbackRow.class_name == PairRow.class_name,
        FeedbackRow.image_id == PairRow.image_id,
        ~FeedbackRow.superseded,
    )
    return query.join_from(PairRow, FeedbackRow, same, isouter=True)


def _models(pair: Pair) -> Models:
    return pair.models
