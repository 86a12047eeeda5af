"""A tuned threshold: every stored pair of a class is decided again from its score, and that replay is the evidence.

replay = retune(records, Retuning("bolt", before, after, by="Ada", why="…"), now, params)

Everything is read, weighed and written in one transaction. Nothing is written where the threshold changes more
decisions than `rollout.retune` allows, or where the verdict on the pairs decided again is too weak for the phase of the
class. What the replay proves, and what it does not: docs/decisions/0022.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.orm import aliased

from shadowline.core.params import Params
from shadowline.evaluation.evidence import slot_of, start_of
from shadowline.models.threshold_change import Deciding
from shadowline.records.audit_log.entry import EntryKind, Record
from shadowline.records.evidence import read_chosen
from shadowline.records.pair import REDECIDED, TEST_SOURCES, PairSource
from shadowline.records.recording import wait_for_other_recorders
from shadowline.records.stores import Records
from shadowline.records.tables import PairRow
from shadowline.rollout import engine
from shadowline.rollout.engine import RolloutStep
from shadowline.rollout.phases import TAKEN_OVER
from shadowline.rollout.state import ClassState, Event, replay, was_taken_back
from shadowline.rollout.verdict import ShadowVerdict, VerdictOutcome
from shadowline.rollout.weighing import evidence_of, weigh

_CHUNK = 20_000  # row numbers per statement
_PAIRS = PairRow.__table__.c


@dataclass(frozen=True)
class Retuning:
    """What a person asks for; that `after` differs in the threshold alone is checked before."""

    before: Deciding  # the present candidate
    after: Deciding
    by: str
    why: str

    def __post_init__(self) -> None:
        if not self.by.strip() or not self.why.strip():
            raise ValueError(f"retune: by {self.by!r}, why {self.why!r}; both must say something")

    @property
    def class_name(self) -> str:
        return self.after.class_name


@dataclass(frozen=True)
class Replay:
    """The result of deciding the pairs again."""

    num_pairs: int  # rows that were written
    num_decided: int  # images that the candidate judged, near-identical frames once
    num_flipped: int  # of them, decided otherwise than when they were received
    verdict: ShadowVerdict  # on the evidence as decided again

    @property
    def flipped_share(self) -> float:
        return self.num_flipped / self.num_decided if self.num_decided else 0.0


def retune(records: Records, request: Retuning, now: datetime, params: Params) -> Replay | None:
    """Replace the present candidate by the tuned one; None where that is done already.

    Raises ValueError, with nothing written, where the state of the class does not allow it, or the replay is outside of
    the bounds.
    """
    if records.rollout.state().of(request.class_name).candidate == request.after.fingerprint:
        return None
    results: list[Replay] = []

    def decide(connection: Connection, events: tuple[Event, ...]) -> tuple[RolloutStep, Sequence[Record]]:
        step = _move(events, request, now)
        cls = step.state.of(request.class_name)
        scope = _Scope.of(connection, cls, request)
        result = _weigh(connection, scope, cls, records, now, params)
        _check(result, cls, request, params)
        results.append(replace(result, num_pairs=_write(connection, scope)))
        return step, [_note(results[0], cls, request, step.state.revision, now)]

    records.rollout.change(decide)
    return results[0]


def _move(events: Sequence[Event], request: Retuning, now: datetime) -> RolloutStep:
    state, name, new = replay(events), request.class_name, request.after
    present = state.of(name).candidate
    if present != request.before.fingerprint:
        raise ValueError(f"class {name!r}: is now about {present[:12]}; look at `shadowline rollout status`, try again")
    if was_taken_back(events, name, new.fingerprint):
        raise ValueError(f"class {name!r}: {new.fingerprint[:12]} was rolled back, and stays failed; tune another one")
    reason = f"threshold {request.before.threshold:.4g} → {new.threshold:.4g}, past pairs decided again: {request.why}"
    return engine.retune(state, name, new.fingerprint, now, request.by, reason)


def _check(result: Replay, cls: ClassState, request: Retuning, params: Params) -> None:
    bound, verdict = params.rollout.retune.max_flipped_share, result.verdict
    name, threshold = request.class_name, f"threshold {request.after.threshold:.4g}"
    if result.flipped_share > bound:
        raise ValueError(
            f"class {name!r}: {threshold} turns {result.num_flipped} of {result.num_decided} decisions "
            f"({result.flipped_share:.2%}), at most {bound:.2%} (rollout.retune.max_flipped_share); "
            "a new candidate goes through shadow mode"
        )
    enough = {VerdictOutcome.PASS} if cls.phase in TAKEN_OVER else {VerdictOutcome.PASS, VerdictOutcome.INCONCLUSIVE}
    if verdict.outcome not in enough:
        raise ValueError(
            f"class {name!r}: in {cls.phase}, the pairs decided again by {threshold} come to the verdict "
            f"{verdict.outcome}: {'; '.join(verdict.reasons)}; tune it otherwise, or let a new candidate go through "
            "shadow mode"
        )


def _note(result: Replay, cls: ClassState, request: Retuning, revision: int, now: datetime) -> Record:
    body = {
        "revision": revision,
        "phase": str(cls.phase),
        "legacy": cls.legacy,
        "from": {"candidate": request.before.fingerprint, "threshold": request.before.threshold},
        "to": {"candidate": request.after.fingerprint, "threshold": request.after.threshold},
        "pairs": result.num_pairs,
        "decided": result.num_decided,
        "flipped": result.num_flipped,
        "flipped_share": result.flipped_share,
        "verdict": str(result.verdict.outcome),
        "reasons": list(result.verdict.reasons),
        "why": request.why,
    }
    return Record(EntryKind.RETUNE, request.class_name, body, request.by, now)


# --- in SQL ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scope:
    """The pairs that are decided again; pairs that the tuned candidate has judged itself stay as they are."""

    candidate: str  # the tuned one
    threshold: float
    alarm: ColumnElement[bool]  # of the tuned candidate; NULL where there is no score
    own: ColumnElement[bool]  # pairs of the tuned candidate, by itself or by an earlier tuning
    former: ColumnElement[bool]  # pairs of the present candidate whose image is on none of them
    is_first: ColumnElement[bool]  # of its frame group, also among `own`
    first_id: int
    last_id: int

    @classmethod
    def of(cls, connection: Connection, class_state: ClassState, request: Retuning) -> _Scope:
        """`class_state` has the tuned candidate. From here on no other process records pairs of either candidate."""
        candidates = sorted((request.before.fingerprint, request.after.fingerprint))
        for candidate in candidates:  # in the order in which recorders wait
            wait_for_other_recorders(connection, (class_state.class_name, candidate, class_state.legacy))
        bounds = select(func.min(PairRow.id), func.max(PairRow.id))
        first_id, last_id = connection.execute(bounds.where(PairRow.class_name == class_state.class_name)).one()
        same = and_(
            PairRow.class_name == class_state.class_name,
            PairRow.legacy == class_state.legacy,
            PairRow.received_at >= class_state.evidence_since,
            PairRow.id <= (last_id or 0),
        )
        own = and_(same, PairRow.candidate == request.after.fingerprint)
        threshold = request.after.threshold
        return cls(
            request.after.fingerprint,
            threshold,
            alarm=_PAIRS.candidate_score > threshold,
            own=own,
            former=and_(
                same,
                PairRow.candidate == request.before.fingerprint,
                PairRow.image_id.not_in(select(PairRow.image_id).where(own)),
            ),
            is_first=and_(
                PairRow.is_first.is_(True), PairRow.frame_group.not_in(select(PairRow.frame_group).where(own))
            ),
            first_id=first_id or 0,
            last_id=last_id or 0,
        )


def _weigh(
    connection: Connection, scope: _Scope, cls: ClassState, records: Records, now: datetime, params: Params
) -> Replay:
    """Nothing is written: the new decisions are made in the query."""
    closed_until, policy = slot_of(now), params.rollout
    evidence = or_(and_(scope.own, PairRow.is_first.is_(True)), and_(scope.former, scope.is_first))
    until = start_of(closed_until)
    table = read_chosen(
        connection, and_(evidence, PairRow.received_at < until), until, policy.guards.latency.bound, scope.alarm
    )
    on_record = records.approvals.evidence(cls.class_name, cls.legacy)
    verdict = weigh(
        cls, evidence_of(cls, table, closed_until, policy.window_days), on_record, params.shadow, policy
    ).verdict
    counts = select(func.count(), func.count(case((scope.alarm != _alarm_at_receipt(), 1))))
    judged = and_(evidence, PairRow.candidate_alarm.is_not(None))
    num_decided, num_flipped = connection.execute(counts.where(judged)).one()
    return Replay(0, int(num_decided), int(num_flipped), verdict)


def _alarm_at_receipt() -> ColumnElement[bool]:
    """What was decided on the part when it came, before any tuning."""
    received = aliased(PairRow)
    same = (getattr(received, name) == _PAIRS[name] for name in ("image_id", "class_name", "legacy", "received_at"))
    original = select(received.candidate_alarm).where(*same, received.source.not_in(REDECIDED))
    at_receipt = original.order_by(received.id).limit(1).correlate(PairRow).scalar_subquery()
    return case((PairRow.source.in_(REDECIDED), at_receipt), else_=_PAIRS.candidate_alarm)


def _write(connection: Connection, scope: _Scope) -> int:
    """One new row for each pair decided again, in their order; returns how many."""
    is_test = PairRow.source.in_(TEST_SOURCES)
    changed: dict[str, Any] = {
        "key": literal(_key_prefix(scope.candidate)) + func.substr(PairRow.key, 17),
        "candidate": literal(scope.candidate),
        "candidate_threshold": case((PairRow.candidate_score.is_not(None), literal(scope.threshold))),
        "candidate_alarm": scope.alarm,
        "source": case((is_test, str(PairSource.REDECIDED_TEST)), else_=str(PairSource.REDECIDED)),
        "is_first": scope.is_first,
    }
    names = [column.name for column in _PAIRS if column.name != "id"]
    written = 0
    for start in range(scope.first_id, scope.last_id + 1, _CHUNK):
        chosen = select(*(changed.get(name, _PAIRS[name]) for name in names)).where(
            scope.former, PairRow.id >= start, PairRow.id < start + _CHUNK
        )
        statement = insert(PairRow).from_select(names, chosen.order_by(PairRow.id), include_defaults=False)
        written += connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount
    return written


def _key_prefix(candidate: str) -> str:
    """First 16 digits of a new key, from the tuned candidate; the other 48 are the old key's: once per candidate."""
    return hashlib.sha256(f"redecided\n{candidate}".encode()).hexdigest()[:16]
