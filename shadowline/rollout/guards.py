"""Guards: measurements that may roll an active candidate back, or block its next phase.

Each guard is one question to every image, and a bound on the mean of the answers:

    errors        failed                                       of all images that it was asked
    dropped       never asked, the queue was full              of all images
    latency       slower than the bound, in ms                 of all that it judged; 5 % may be
    false_alarms  alarm on a part labelled normal              of all that it judged
    agreement     wrong where the legacy model was right       of all that both judged; the bound is 1 − share
    lost_defects  found by the legacy model alone              of the labelled defects that one model alone found
    drift         alarm, against the legacy model's            of all that both judged, since the candidate answers
    alarm_rate    alarm                                        of all that it judged alone
    misses        not found                                    of the defects among parts that no model chose: drawn
                                                               for review by chance, or put on the line on purpose
                  The bounds of the last three are added to what was usual before the candidate answered; the first
                  two of them look in both directions.
                  In `lost_defects` and `misses` an alarm of the candidate that has no label yet counts as a defect
                  that it found.

A guard trips when the evidence proves that its bound is crossed, by a test that is valid at every look (see
`shadowline/evaluation/sequential_tests.py`). The error probability `rollout.stop_error` is shared equally among the
hard guards. A label that is missing or late can never trip a guard but `drift` and `alarm_rate`, which need none: what
is not known counts in favour of the candidate. No images are no evidence: silence trips nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from shadowline.core.params import GuardParams, RolloutParams
from shadowline.evaluation.evidence import (
    ABSENT,
    ALARM,
    ANOMALOUS,
    DROPPED,
    FAILED,
    NO_ALARM,
    NORMAL,
    Evidence,
    EvidenceTable,
    counts_of,
    pick,
    start_of,
)
from shadowline.evaluation.sequential_tests import ChangeTable, Ints, confidence_bounds, crossings, strongest_start

SLOW_SHARE = 0.05  # of the answers that may be slower than the latency guard allows: its bound is a 95th percentile
_BASELINE_CONFIDENCE = 0.99  # of the interval for the alarm rate that was usual
_ENOUGH_SAMPLED = 20  # sampled defects that are needed for a usual rate of their own
NO_YES = (0.0, 1.0)  # values of a question
TWO_SIDED = frozenset({"drift", "alarm_rate"})
LESS_SAME_MORE = (-1.0, 0.0, 1.0)  # alarms of the candidate against the legacy model's


@dataclass(frozen=True)
class GuardResult:
    """One guard, and when it tripped."""

    name: str
    hard: bool
    crossed_at: tuple[datetime, ...]  # ends of the quarters of an hour in which its bound was proven crossed
    active: bool  # hard: it has ever tripped; soft: in the last `rollout.window_days` production days
    reason: str  # what was measured, against which bound


@dataclass(frozen=True)
class _Question:
    """What one guard asks, and how the wealth against its bound is counted."""

    value_of: Callable[[EvidenceTable], Ints]  # index of each row's value, −1 where it is not asked
    values: tuple[float, ...]
    bound: float
    unit: str  # of the measured mean, in words


def check_guards(evidence: Evidence, policy: RolloutParams, least_agreement: float) -> tuple[GuardResult, ...]:
    """Every guard, hard ones first, as of the last closed quarter of an hour.

    `least_agreement` is the bound of the guard `agreement` in the phase where the class stands.
    """
    guards: dict[str, GuardParams] = {name: getattr(policy.guards, name) for name in type(policy.guards).model_fields}
    num_hard = sum(guard.severity == "hard" for guard in guards.values())
    alpha = policy.stop_error / max(num_hard, 1)
    results = [
        _check(name, guards[name], question, evidence, alpha, policy.window_days)
        for name, question in _questions(evidence, policy, least_agreement)
    ]
    merged: dict[str, GuardResult] = {}
    for result in results:
        merged[result.name] = _merge(merged[result.name], result) if result.name in merged else result
    return tuple(sorted(merged.values(), key=lambda result: not result.hard))


def _merge(first: GuardResult, second: GuardResult) -> GuardResult:
    """Both directions of a two-sided guard."""
    speaker = second if second.active and not first.active else first
    crossed = tuple(sorted({*first.crossed_at, *second.crossed_at}))
    return GuardResult(first.name, first.hard, crossed, first.active or second.active, speaker.reason)


def _questions(evidence: Evidence, policy: RolloutParams, least_agreement: float) -> Iterator[tuple[str, _Question]]:
    guards = policy.guards
    yield "agreement", _Question(_wrong, NO_YES, 1.0 - least_agreement, "proven wrong against the legacy model")
    yield (
        "lost_defects",
        _Question(_lost, NO_YES, guards.lost_defects.bound, "of the defects that one model alone found"),
    )
    yield "false_alarms", _Question(_false_alarm, NO_YES, guards.false_alarms.bound, "proven false alarms")
    yield "errors", _Question(_error, NO_YES, guards.errors.bound, "failed")
    yield "latency", _Question(_slow, NO_YES, SLOW_SHARE, f"slower than {guards.latency.bound:g} ms")
    yield "dropped", _Question(_dropped, NO_YES, guards.dropped.bound, "never paired")
    if evidence.answering_since is not None:
        yield from _change_questions(evidence, evidence.answering_since, policy)


def _check(
    name: str, guard: GuardParams, question: _Question, evidence: Evidence, alpha: float, window_days: int
) -> GuardResult:
    hard = guard.severity == "hard"
    table = evidence.changes(question.value_of)
    level = alpha / 2 if name in TWO_SIDED else alpha
    slots = crossings(table, question.values, question.bound, level)
    active = bool(slots) and (hard or _is_recent(slots[-1], evidence, window_days))
    if slots:
        measured = _proof_in_words(table, question, slots[0 if hard else -1], evidence)
    else:
        measured = _in_words(counts_of(table.value, table.count, len(question.values)), question)
    return GuardResult(name, hard, tuple(start_of(slot + 1) for slot in slots), active, f"{name}: {measured}")


def _is_recent(slot: int, evidence: Evidence, window_days: int) -> bool:
    """Within the last production days."""
    return sum(day.first > slot for day in evidence.days) < window_days


def _proof_in_words(table: ChangeTable, question: _Question, slot: int, evidence: Evidence) -> str:
    """What was known when the bound was proven crossed, since the day from which on it was crossed most clearly."""
    start, counts = strongest_start(table, question.values, question.bound, slot)
    since = f" since {start_of(evidence.days[start].first):%Y-%m-%d}" if start else ""
    return f"{_in_words(counts, question, since)}, proven on {start_of(slot + 1):%Y-%m-%d %H:%M}"


def _in_words(counts: Ints, question: _Question, since: str = "") -> str:
    total = int(counts.sum())
    if not total:
        return f"nothing measured; bound {question.bound:.1%}"
    mean = float(counts @ np.array(question.values)) / total
    return f"{mean:.1%} of {total} {question.unit}{since}; bound {question.bound:.1%}"


# --- the questions ----------------------------------------------------------------------------------------------


def _yes_no(asked: np.ndarray, yes: np.ndarray) -> Ints:
    return pick([asked & yes, asked], [1, 0], len(asked))


def _wrong(table: EvidenceTable) -> Ints:
    false_alarm = (table.label == NORMAL) & (table.candidate == ALARM) & (table.legacy == NO_ALARM)
    return _yes_no(table.both_judged & table.produced, false_alarm | _is_lost(table))


def _is_lost(table: EvidenceTable) -> np.ndarray:
    lost: np.ndarray = (table.label == ANOMALOUS) & (table.candidate == NO_ALARM) & (table.legacy == ALARM)
    return lost


def _lost(table: EvidenceTable) -> Ints:
    gained = (table.label != NORMAL) & (table.candidate == ALARM) & (table.legacy == NO_ALARM)
    return _yes_no((_is_lost(table) | gained) & table.produced, _is_lost(table))


def _false_alarm(table: EvidenceTable) -> Ints:
    return _yes_no(table.judged & table.produced, (table.label == NORMAL) & (table.candidate == ALARM))


def _error(table: EvidenceTable) -> Ints:
    return _yes_no(table.candidate <= FAILED, table.candidate == FAILED)


def _slow(table: EvidenceTable) -> Ints:
    return _yes_no(table.judged, table.slow)


def _dropped(table: EvidenceTable) -> Ints:
    return _yes_no(table.candidate <= DROPPED, table.candidate == DROPPED)


# --- change ------------------------------------------------------------------------------------------------------


def _change_questions(evidence: Evidence, since: int, policy: RolloutParams) -> Iterator[tuple[str, _Question]]:
    """More and fewer alarms than usual; usual is what the candidate showed before `since`, whatever the labels said.

    After it, an alarm or a silence that a label proves right does not count against the candidate. What was known of
    misses when it began to answer is usual; labels that come later do not move the bound of a test that has begun.
    """
    before = evidence.known_at(since, received_before=since)
    beside = counts_of(_against_legacy(before, +1, settle=False), before.count, 3)
    alone = counts_of(_alarm(before), before.count, 2)
    bound = misses_bound(evidence, since, policy)
    yield "misses", _Question(_missed_since(since), NO_YES, bound, "of sampled defects missed")
    if beside.sum():
        low, high = confidence_bounds(beside, LESS_SAME_MORE, _BASELINE_CONFIDENCE)
        yield from _two_sided("drift", _beside, LESS_SAME_MORE, (since, -low, high), policy.guards.drift.bound)
    if alone.sum():
        low, high = confidence_bounds(alone, NO_YES, _BASELINE_CONFIDENCE)
        yield from _two_sided("alarm_rate", _alone, NO_YES, (since, 1.0 - low, high), policy.guards.alarm_rate.bound)


def misses_bound(evidence: Evidence, since: int, policy: RolloutParams) -> float:
    """Share of the sampled defects that the candidate may miss: what was usual before slot `since`, and the margin.

    Usual is the share of such defects that it missed; of all known ones where fewer than 20 were sampled, which leaves
    out what both models missed.
    """
    before = evidence.known_at(since, received_before=since)
    sampled = sampled_misses(before, since=0)
    all_defects = counts_of(_miss(before), before.count, 2)
    defects = sampled if sampled.sum() >= _ENOUGH_SAMPLED else all_defects
    usual = confidence_bounds(defects, NO_YES, _BASELINE_CONFIDENCE)[1] if defects.sum() else 0.0
    return usual + policy.guards.misses.bound


def _two_sided(
    name: str,
    make: Callable[[int, int], Callable[[EvidenceTable], Ints]],
    values: tuple[float, ...],
    usual: tuple[int, float, float],
    bound: float,
) -> Iterator[tuple[str, _Question]]:
    """`usual`: since when it counts, and the largest usual means of fewer and of more alarms."""
    since, fewer, more = usual
    for sign, mean, word in ((+1, more, "more alarms than usual"), (-1, fewer, "fewer alarms than usual")):
        if mean + bound < 1.0:  # otherwise no change can be too large
            yield name, _Question(make(since, sign), values, mean + bound, word)


def _beside(since: int, sign: int) -> Callable[[EvidenceTable], Ints]:
    def value_of(table: EvidenceTable) -> Ints:
        values = _against_legacy(table, sign, settle=True)
        values[table.received < since] = -1
        return values

    return value_of


def _alone(since: int, sign: int) -> Callable[[EvidenceTable], Ints]:
    def value_of(table: EvidenceTable) -> Ints:
        values = _alarm(table)
        asked = (values >= 0) & (table.legacy == ABSENT) & (table.received >= since)
        settled = (table.label == ANOMALOUS) if sign > 0 else (table.label == NORMAL)
        against = (values == 1) if sign > 0 else (values == 0)
        return _yes_no(asked, against & ~settled)

    return value_of


def _against_legacy(table: EvidenceTable, sign: int, *, settle: bool) -> Ints:
    """Index into LESS_SAME_MORE of sign × (alarm of the candidate − alarm of the legacy model)."""
    asked = table.both_judged & table.produced
    more, less = table.candidate > table.legacy, table.candidate < table.legacy
    against, for_it = (more, less) if sign > 0 else (less, more)
    if settle:
        proven_right = (table.label == ANOMALOUS) if sign > 0 else (table.label == NORMAL)
        against = against & ~proven_right
    return pick([asked & against, asked & for_it, asked], [2, 0, 1], len(table))


def _missed_since(since: int) -> Callable[[EvidenceTable], Ints]:
    """Only parts that were chosen without looking at a decision: others would hide what nobody flagged."""

    def value_of(table: EvidenceTable) -> Ints:
        missed = (table.label == ANOMALOUS) & (table.candidate == NO_ALARM)
        hit = (table.label != NORMAL) & (table.candidate == ALARM)
        sampled = table.sampled & (table.received >= since)
        return _yes_no(sampled & (missed | hit), missed)

    return value_of


def sampled_misses(table: EvidenceTable, since: int) -> Ints:
    """(2,): known defects that no model chose, received from slot `since` on: found and missed by the candidate."""
    rows = table.where(table.sampled & (table.received >= since))
    return counts_of(_miss(rows), rows.count, 2)


def _miss(table: EvidenceTable) -> Ints:
    return _yes_no((table.label == ANOMALOUS) & table.judged, table.candidate == NO_ALARM)


def _alarm(table: EvidenceTable) -> Ints:
    return _yes_no(table.judged & table.produced, table.candidate == ALARM)
