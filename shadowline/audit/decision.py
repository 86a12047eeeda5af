"""Builds the record of one decision: did the rules in force lead to it, and does a re-run give the same?

rerun = compare(decision_of(stored, "candidate"), score, threshold, environment, heatmap)
record = build_record(case, rerun, now)          # pure; `tasks/audit/decision.py` gathers the case
record.confirmed, record.calibration.problems
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from shadowline.audit.inspection import (
    CalibrationFacts,
    DecisionOutcome,
    HeatMap,
    InspectedPart,
    InspectionRecord,
    InstrumentCalibration,
    ModelFacts,
    ModelReference,
    ModelStatement,
    RecordedFeedback,
    Rerun,
    RolloutStatus,
)
from shadowline.data.labels import Label
from shadowline.records.audit_log.entry import Entry, EntryKind, timestamp
from shadowline.records.pair import ModelDecision, Pair, Side
from shadowline.records.traces import LabelEvent, StoredPair
from shadowline.rollout.phases import CANDIDATE_JUDGES, TAKEN_OVER
from shadowline.rollout.state import ClassState, Event

ROUNDING = 1e-5  # of a score, or of 1 where that is more; see docs/decisions/0018
NOT_ASKED = "not asked"  # a model that does not judge in the phase
_CLOCKS = timedelta(seconds=60)  # between the gateway's clock and the rollout's, the gateway's polling included
_MACHINE_MADE = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")  # trace ids that no caller chose


@dataclass(frozen=True)
class DecisionEvidence:
    """All that is known of one decision, before anything is judged."""

    stored: StoredPair
    number: str  # of the part, if one was given
    position: float  # of the image among all, 0…1
    words: tuple[LabelEvent, ...]  # the latest last
    model: ModelFacts
    calibration: CalibrationFacts
    events: tuple[Event, ...]  # of the class
    entries: tuple[Entry, ...]  # registrations, and phases of the class


def build_record(case: DecisionEvidence, rerun: Rerun, now: datetime) -> InspectionRecord:
    """Raises ValueError where no model answered."""
    pair = case.stored.pair
    decided = decision_of(case.stored, pair.answered_by)
    if decided.decision is None:
        raise ValueError(f"trace '{pair.trace_id}': no model answered ({decided.error}); there is no decision to show")
    other = decision_of(case.stored, "legacy" if pair.answered_by == "candidate" else "candidate")
    around = _around(case.events, case.stored.received_at)
    event = _that_fits(around, case.stored)
    return InspectionRecord(
        part=_part(case),
        decision=decided,
        rule=_rule(decided, other, case, event),
        model=case.model,
        calibration=InstrumentCalibration(**asdict(case.calibration), problems=tuple(_problems(case, decided, around))),
        rollout=_standing(event, case.position) if event else None,
        other=None if other.error == NOT_ASKED else other,
        feedback=_feedback(case.words),
        rerun=rerun,
        registration=_cite(_registration(case)),
        phase=_cite(_phase(case, event)) if event else None,
        drawn_at=timestamp(now),
    )


def compare(
    on_record: ModelStatement, score: float, threshold: float, environment: str, heatmap: HeatMap | None
) -> Rerun:
    """Compare the recorded score of a model with the score that the same model gives now."""
    assert on_record.score is not None and on_record.threshold is not None  # it answered
    difference, rounding = score - on_record.score, ROUNDING * max(1.0, abs(on_record.score))
    outcome, reason = DecisionOutcome.DIFFERENT, ""
    if threshold != on_record.threshold:
        reason = f"the model's threshold is {threshold!r}, on record is {on_record.threshold!r}"
    elif difference == 0.0:
        outcome, reason = DecisionOutcome.IDENTICAL, "the same score, bit for bit"
    elif abs(difference) <= rounding and (score > threshold) == (on_record.decision is Label.ANOMALOUS):
        outcome = DecisionOutcome.ROUNDING
        reason = f"the same decision; the score differs by {difference:.1e}, rounding may bring {rounding:.1e}"
    else:
        reason = f"the score is {score!r}, on record is {on_record.score!r}; rounding may bring {rounding:.1e}"
    return Rerun(outcome, reason, score, threshold, difference, rounding, environment, heatmap)


def decision_of(stored: StoredPair, side: Side) -> ModelStatement:
    """One model's decision as it was stored, which need not be the one that follows from the score."""
    pair = stored.pair
    fingerprint = pair.candidate if side == "candidate" else pair.legacy
    judged, alarm = _judgement(pair, side), stored.alarms[side]
    decision = None if alarm is None else Label.ANOMALOUS if alarm else Label.NORMAL
    return ModelStatement(side, fingerprint, judged.score, judged.threshold, decision, judged.error)


def _judgement(pair: Pair, side: Side) -> ModelDecision:
    decision = pair.candidate_said if side == "candidate" else pair.legacy_said
    return decision or ModelDecision(error=NOT_ASKED)


def _part(case: DecisionEvidence) -> InspectedPart:
    pair, received_at = case.stored.pair, timestamp(case.stored.received_at)
    return InspectedPart(
        _number(case), pair.trace_id, pair.class_name, pair.image_id, timestamp(pair.captured_at), received_at
    )


def _number(case: DecisionEvidence) -> str:
    """The part's number; where none was given, a trace id that the caller chose serves as one."""
    trace_id = case.stored.pair.trace_id
    return case.number or ("" if _MACHINE_MADE.fullmatch(trace_id) else trace_id)


def _feedback(labels: Sequence[LabelEvent]) -> RecordedFeedback | None:
    counting = [label for label in labels if not label.superseded]
    if not counting:
        return None
    latest = counting[-1]
    return RecordedFeedback(latest.label, latest.by, timestamp(latest.at), latest.note, len(labels) - len(counting))


# --- what was in force ----------------------------------------------------------------------------------------------


def _around(events: Sequence[Event], at: datetime) -> tuple[Event, ...]:
    """The events in force at a moment, within the tolerance of the clocks: mostly one, the latest last."""
    begun = [event for event in events if event.at <= at + _CLOCKS]
    ended = sum(event.at <= at - _CLOCKS for event in begun)
    return tuple(begun[max(0, ended - 1) :])


def _that_fits(around: Sequence[Event], stored: StoredPair) -> Event | None:
    """The event under whose rule the answer was given; where none fits, the latest."""
    fitting = [event for event in around if not _misfit(event.after, stored)]
    return next(reversed(fitting or list(around)), None)


def _misfit(state: ClassState, stored: StoredPair) -> str:
    """Why the state of the class does not lead to this answer; empty where it does."""
    pair = stored.pair
    if not pair.candidate and state.standing in CANDIDATE_JUDGES:
        return f"the candidate was not asked in phase {state.standing}, in which it judges every part"
    candidate = state.candidate if pair.candidate else ""
    for side, named, recorded in (("candidate", candidate, pair.candidate), ("legacy", state.legacy, pair.legacy)):
        if named != recorded:
            return f"the {side} model in force was {named[:12]}…, the pair names {recorded[:12]}…"
    if pair.answered_by == "candidate" and not state.candidate_answers:
        return f"the candidate answered in phase {state.standing}, in which it answers nothing"
    failed = _judgement(pair, "candidate").error is not None
    if pair.answered_by == "legacy" and state.standing in TAKEN_OVER and not failed:
        return f"the legacy model answered in phase {state.standing}, in which the candidate answers"
    return ""


def _problems(case: DecisionEvidence, decided: ModelStatement, around: Sequence[Event]) -> Iterable[str]:
    """Why the calibration was not in force for this part, or why that is unknown."""
    stored, pair = case.stored, case.stored.pair
    if stored.key != pair.key:
        yield "the pair's key does not fit its image, time and models: one of them was changed on record"
    if _judgement(pair, decided.side).alarm != (decided.decision is Label.ANOMALOUS):
        yield f"decision {decided.decision} does not follow from the score and threshold on record"
    if case.model.problem:
        yield case.model.problem
    elif case.calibration.threshold != decided.threshold:
        yield f"the threshold on record is {decided.threshold!r}, the model's own is {case.calibration.threshold!r}"
    if not around:
        yield f"class '{pair.class_name}' was in no rollout at that time"
    elif misfits := [_misfit(event.after, stored) for event in around]:
        yield from [] if "" in misfits else misfits[-1:]


def _standing(event: Event, position: float) -> RolloutStatus:
    state = event.after
    return RolloutStatus(event.revision, str(state.phase), state.share, position, timestamp(event.at))


# --- in words -------------------------------------------------------------------------------------------------------


def _rule(
    decided: ModelStatement, other: ModelStatement, case: DecisionEvidence, event: Event | None
) -> tuple[str, ...]:
    return (_who(decided, other, case.position, event), _by_what(decided, case.calibration))


def _who(decided: ModelStatement, other: ModelStatement, position: float, event: Event | None) -> str:
    """Who answered, and why it was that model."""
    name = "The multi-class model" if decided.side == "candidate" else "The legacy model"
    if event is None:
        return f"{name} answered; the class was in no rollout."
    phase, share = event.after.standing, event.after.share
    if decided.side == "legacy" and event.after.candidate_answers and other.error is not None:
        return f"{name} answered in the place of the multi-class model, which gave no answer: {other.error}."
    if 0.0 < share < 1.0:
        side = "within" if position < share else "outside"
        has = f"in phase {phase} the multi-class model has the first {100 * share:g} % of the images"
        return f"{name} answered: {has}, and this one, at {100 * position:.1f} %, is {side} them."
    return f"{name} answered: in phase {phase} it decides on every part of the class."


def _by_what(decided: ModelStatement, calibration: CalibrationFacts) -> str:
    above = decided.decision is Label.ANOMALOUS
    sentence = f"The part was {'stopped' if above else 'passed'}: its score is {'above' if above else 'not above'} the "
    if calibration.target_fpr is None:
        return f"{sentence}threshold ({calibration.method or 'of which nothing is known'})."
    return (
        f"{sentence}threshold, which {calibration.num_images} normal images of the class set ({calibration.method}) so "
        f"that at most {100 * calibration.target_fpr:g} % of the good parts are stopped."
    )


# --- the chain ------------------------------------------------------------------------------------------------------


def _registration(case: DecisionEvidence) -> Entry | None:
    """The last entry that registered exactly the version that decided."""
    uri = f"models:/{case.model.name}/{case.model.version}"
    entries = [entry for entry in case.entries if (entry.kind, entry.subject) == (EntryKind.REGISTRATION, uri)]
    return next(reversed(entries), None)


def _phase(case: DecisionEvidence, event: Event) -> Entry | None:
    """The entry that put exactly this event on record."""
    entries = [
        entry
        for entry in case.entries
        if entry.kind == EntryKind.PHASE and entry.facts.get("revision") == event.revision
    ]
    return next(iter(entries), None)


def _cite(entry: Entry | None) -> ModelReference | None:
    return ModelReference(entry.number, entry.at, entry.hash, entry.key, entry.signature) if entry else None
