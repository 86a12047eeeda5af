"""The evidence on one candidate, counted in the database.

    evidence = read_evidence(engine, cls, now, params.rollout)

Images are grouped in the database by their slot of receipt and by what was decided; only labelled images are read one
by one. Near-identical frames and repeated images count once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    Integer,
    and_,
    case,
    cast,
    extract,
    func,
    literal,
    select,
)

from shadowline.core.params import RolloutParams
from shadowline.data.labels import Label
from shadowline.evaluation.evidence import (
    ABSENT,
    ALARM,
    DROPPED,
    FAILED,
    NO_ALARM,
    Evidence,
    EvidenceTable,
    slot_of,
    start_of,
)
from shadowline.records.database import reading
from shadowline.records.pair import DROPPED as NEVER_ASKED
from shadowline.records.pair import TEST_SOURCES
from shadowline.records.tables import FeedbackRow, PairRow
from shadowline.rollout.state import ClassState
from shadowline.rollout.weighing import evidence_of

_NEVER = 4  # the candidate was not asked, and should not have been
_SECONDS_A_SLOT = 900
_LABELS = {Label.NORMAL: 1, Label.ANOMALOUS: 2}
_KEYS = ("received", "candidate", "legacy", "slow", "review_share", "drawn", "reference")


def read_evidence(engine: Engine, cls: ClassState, now: datetime, policy: RolloutParams) -> Evidence:
    """Evidence on the present candidate and legacy model of a class, from their first comparison to the last slot."""
    closed_until = slot_of(now)
    since = cls.evidence_since
    if since is None:
        return Evidence(EvidenceTable.empty(), closed_until)
    models = (cls.class_name, cls.candidate, cls.legacy)
    table = read_table(engine, models, since, start_of(closed_until), policy.guards.latency.bound)
    return evidence_of(cls, table, closed_until, policy.window_days)


def read_table(
    engine: Engine, models: tuple[str, str, str], since: datetime | None, until: datetime, slow_ms: float
) -> EvidenceTable:
    """What is known before `until` of the images received from `since` on; `models`: class, candidate, legacy model.

    A label counts from the beginning of its slot: where `until` lies inside a slot, all labels of that slot count.
    """
    same = (PairRow.class_name, PairRow.candidate, PairRow.legacy)
    chosen: list[ColumnElement[bool]] = [column == value for column, value in zip(same, models, strict=True)]
    chosen += [PairRow.received_at < until, PairRow.is_first.is_(True)]
    chosen += [PairRow.received_at >= since] if since else []
    with reading(engine) as connection:
        return read_chosen(connection, and_(*chosen), until, slow_ms)


def read_chosen(
    connection: Connection,
    chosen: ColumnElement[bool],
    until: datetime,
    slow_ms: float,
    decided: ColumnElement[bool] | None = None,
) -> EvidenceTable:
    """What is known before `until` of the chosen pairs; `decided`: alarms to use instead of the candidate's."""
    dialect = connection.dialect.name
    keys = _key_columns(dialect, slow_ms, PairRow.__table__.c.candidate_alarm if decided is None else decided)
    received = connection.execute(select(*keys, func.count()).where(chosen).group_by(*keys)).all()
    labelled = connection.execute(
        select(PairRow.id, FeedbackRow.label, _slot(FeedbackRow.at, dialect), *keys)
        .join_from(
            PairRow,
            FeedbackRow,
            and_(FeedbackRow.class_name == PairRow.class_name, FeedbackRow.image_id == PairRow.image_id),
        )
        .where(chosen)
        .order_by(PairRow.id, FeedbackRow.id)
    ).all()
    changes = [change for change in _label_changes(labelled) if start_of(change[0]) < until]
    return _table([(row[0], 0, *row) for row in received] + changes)


def _label_changes(rows: Iterable[Sequence[Any]]) -> Iterable[tuple[Any, ...]]:
    """Two rows for each label of an image: the former label is taken back, the new one counts from then on.

    A label counts no earlier than its image, and no earlier than the label that it supersedes, whatever its own time.
    """
    former: dict[int, tuple[int, int]] = {}
    for pair, label, slot, *keys in rows:
        since, before = former.get(pair, (keys[0], 0))
        known_at, after = max(slot, since), _LABELS[Label(label)]
        if before != after:
            yield (known_at, before, *keys, -1)
            yield (known_at, after, *keys, 1)
        former[pair] = (known_at, after)


def _table(rows: Sequence[Sequence[Any]]) -> EvidenceTable:
    names = ("slot", "label", *_KEYS, "count")
    columns = np.array(rows, dtype=np.float64).reshape(-1, len(names)).T
    return EvidenceTable.of(dict(zip(names, columns, strict=True)))


def _key_columns(dialect: str, slow_ms: float, alarm: ColumnElement[bool]) -> tuple[Any, ...]:
    never = literal(_NEVER)
    candidate = case(
        (alarm.is_(True), ALARM),
        (alarm.is_(False), NO_ALARM),
        (PairRow.candidate_error == NEVER_ASKED, DROPPED),
        (PairRow.candidate_error.is_not(None), FAILED),
        else_=never,
    )
    legacy = case((PairRow.legacy_alarm.is_(True), ALARM), (PairRow.legacy_alarm.is_(False), NO_ALARM), else_=ABSENT)
    slow = case((PairRow.candidate_latency_ms > slow_ms, 1), else_=0)
    drawn = case((PairRow.review_drawn, 1), else_=0)
    reference = case((PairRow.source.in_(TEST_SOURCES), 1), else_=0)
    review_share: ColumnElement[Any] = cast(PairRow.review_share, Float)
    return (_slot(PairRow.received_at, dialect), candidate, legacy, slow, review_share, drawn, reference)


def _slot(column: Any, dialect: str) -> ColumnElement[int]:
    seconds = (
        cast(func.floor(extract("epoch", column)), Integer)
        if dialect == "postgresql"
        else cast(func.strftime("%s", column), Integer)
    )
    return seconds // _SECONDS_A_SLOT
