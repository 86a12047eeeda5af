"""Simulates lines and candidates, and the evidence that the gateway would record of them. Pure, seeded.

    line = Line(parts_per_day=100, defect_rate=0.03)
    evidence = rehearse(line, SimulatedCandidate(missed=0.3), Reviews(), num_days=60, seed=1)

For `shadowline bench rollout` and for tests: what do the rules of evidence do with a candidate that is known to be bad?

    source = since_entry({"v1-bolt": evidence})
    for now, step in simulate_rollout(state, source, {"bolt": "v1-bolt"}, ticks, params.shadow, params.rollout): …
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from shadowline.core.params import RolloutParams, ShadowParams
from shadowline.evaluation.evidence import (
    ABSENT,
    ALARM,
    ANOMALOUS,
    FAILED,
    NO_ALARM,
    NORMAL,
    SLOTS_A_DAY,
    UNLABELLED,
    Evidence,
    EvidenceTable,
    slot_of,
)
from shadowline.rollout.engine import RolloutStep, step
from shadowline.rollout.observation import Approval, ChecklistItem, ClassObservation, Observation
from shadowline.rollout.phases import CANDIDATE_JUDGES, LEGACY_JUDGES, Phase
from shadowline.rollout.state import ClassState, RolloutState
from shadowline.rollout.weighing import evidence_of, weigh

_FIRST_SLOT = 20_458 * SLOTS_A_DAY + 24  # 6:00 UTC on a Monday, 2026-01-05

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Line:
    """The parts of a production line, and how the legacy model judges them."""

    parts_per_day: int = 100
    defect_rate: float = 0.03
    shift_slots: int = 64  # quarters of an hour a day in which parts come
    week_days: int = 7  # production days a week, from Monday on
    legacy_missed: float = 0.02  # of the defects
    legacy_false_alarms: float = 0.01  # of the good parts
    legacy_off_from: int | None = None  # calendar day from which it judges no more
    references_per_day: int = 0  # further defects, put on the line on purpose, with the last parts of the day


@dataclass(frozen=True)
class SimulatedCandidate:
    """How a candidate errs: on its own, or together with the legacy model."""

    missed: float = 0.02  # of the defects
    false_alarms: float = 0.01  # of the good parts
    shared: float = 0.0  # share of the parts on which it decides as the legacy model does
    failed: float = 0.0  # share of the parts on which it fails
    kind_missed: float = 0.0  # share of the defects that are of a kind to which it is blind
    from_day: int = 0  # before this day it errs as a good one does
    worse_each_week: float = 0.0  # added to `missed`, every seven days
    slow: float = 0.0  # share of the answers that take longer than the latency guard allows
    slower_each_week: float = 0.0  # added to `slow`, every seven days
    delayed: bool = False  # decides on each part as the legacy model did on the part before


@dataclass(frozen=True)
class Reviews:
    """Which parts inspectors label, and when."""

    disagreements: float = 1.0  # share that is labelled
    alarms: float = 1.0  # share of the parts with an alarm of either model
    review_share: float = 0.02  # of all parts, drawn by chance
    answered: float = 1.0  # share of the drawn parts that is labelled
    delay_slots: int = 48  # from the part to its label


def rehearse(line: Line, candidate: SimulatedCandidate, reviews: Reviews, num_days: int, seed: int) -> EvidenceTable:
    """Everything that becomes known in `num_days` calendar days, both models judging all the time."""
    rng = np.random.default_rng(seed)
    days = np.array([day for day in range(num_days) if day % 7 < line.week_days], dtype=np.int64)
    day = np.repeat(days, line.parts_per_day + line.references_per_day)
    position = np.tile(np.arange(line.parts_per_day + line.references_per_day), len(days))
    reference = position >= line.parts_per_day
    position = np.minimum(position, line.parts_per_day - 1)
    received = _FIRST_SLOT + day * SLOTS_A_DAY + position * line.shift_slots // line.parts_per_day
    defect = (rng.random(len(day)) < line.defect_rate) | reference
    legacy = _decide(defect, np.full(len(day), line.legacy_missed), line.legacy_false_alarms, rng)
    decisions = _said(line, candidate, day, defect, legacy, rng)
    drawn = (rng.random(len(day)) < reviews.review_share) & ~reference
    is_off = day >= (num_days if line.legacy_off_from is None else line.legacy_off_from)
    looked_at = (
        ((decisions != legacy) & ~is_off & (rng.random(len(day)) < reviews.disagreements))
        | (((decisions == ALARM) | (legacy & ~is_off)) & (rng.random(len(day)) < reviews.alarms))
        | (drawn & (rng.random(len(day)) < reviews.answered))
        | reference
    )
    label = np.where(defect, ANOMALOUS, NORMAL)
    share = np.full(len(day), reviews.review_share)
    slow = rng.random(len(day)) < candidate.slow + candidate.slower_each_week * (day // 7)
    judged = np.where(is_off, ABSENT, legacy)
    return _table(received, label, decisions, judged, slow, drawn, reference, share, looked_at, reviews.delay_slots)


def _decide(defect: Flags, missed: npt.NDArray[np.float64], false_alarms: float, rng: np.random.Generator) -> Flags:
    draw = rng.random(len(defect))
    alarms: Flags = np.where(defect, draw >= missed, draw < false_alarms)
    return alarms


def _said(
    line: Line,
    candidate: SimulatedCandidate,
    day: npt.NDArray[np.int64],
    defect: Flags,
    legacy: Flags,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    bad = day >= candidate.from_day
    missed = np.where(bad, candidate.missed + candidate.worse_each_week * (day // 7), line.legacy_missed)
    alarms = _decide(defect, np.minimum(missed, 1.0), candidate.false_alarms, rng)
    good = _decide(defect, np.full(len(day), line.legacy_missed), line.legacy_false_alarms, rng)
    flags = np.where(bad, alarms, good)
    flags = np.where(rng.random(len(day)) < candidate.shared, legacy, flags)
    flags = np.where(bad & defect & (rng.random(len(day)) < candidate.kind_missed), False, flags)
    flags = np.concatenate([[False], legacy[:-1]]) if candidate.delayed else flags
    decisions = np.where(flags, ALARM, NO_ALARM)
    return np.where(bad & (rng.random(len(day)) < candidate.failed), FAILED, decisions).astype(np.int64)


def _table(
    received: npt.NDArray[np.int64],
    label: npt.NDArray[np.int64],
    candidate: npt.NDArray[np.int64],
    legacy: npt.NDArray[np.int64],
    slow: Flags,
    drawn: Flags,
    reference: Flags,
    share: npt.NDArray[np.float64],
    looked_at: Flags,
    delay: int,
) -> EvidenceTable:
    parts: dict[str, npt.NDArray[Any]] = {
        "received": received,
        "candidate": candidate,
        "legacy": legacy,
        "slow": slow,
        "drawn": drawn,
        "reference": reference,
    }
    parts["review_share"] = share
    looked = {name: column[looked_at] for name, column in parts.items()}
    labelled_at = looked["received"] + delay
    none, ones = np.full(len(received), UNLABELLED), np.ones(len(received), dtype=np.int64)
    first = {**parts, "slot": received, "label": none, "count": ones}
    taken = {**looked, "slot": labelled_at, "label": none[looked_at], "count": -ones[looked_at]}
    given = {**looked, "slot": labelled_at, "label": label[looked_at], "count": ones[looked_at]}
    return EvidenceTable.of({name: np.concatenate([rows[name] for rows in (first, taken, given)]) for name in first})


# --- a rollout on such evidence ----------------------------------------------------------------------------------

Source = Callable[[ClassState], EvidenceTable]  # all that will ever be known of the present candidate of a class


def since_entry(tables: Mapping[str, EvidenceTable]) -> Source:
    """One calendar for all: of a candidate's table (by fingerprint), the images received from its entry on count."""

    def source(cls: ClassState) -> EvidenceTable:
        table = tables[cls.candidate]
        return table.where(table.received >= _entry(cls))

    return source


def from_entry(tables: Mapping[str, EvidenceTable]) -> Source:
    """The table of a candidate begins when it begins to be compared, whenever that is."""

    def source(cls: ClassState) -> EvidenceTable:
        table = tables[cls.candidate]
        shift = _entry(cls) - int(table.received.min(initial=_entry(cls)))
        return replace(table, slot=table.slot + shift, received=table.received + shift)

    return source


def _entry(cls: ClassState) -> int:
    return slot_of(cls.evidence_since or cls.since)


def simulate_rollout(
    state: RolloutState,
    source: Source,
    challenger: Mapping[str, str],
    ticks: Iterable[datetime],
    shadow: ShadowParams,
    policy: RolloutParams,
) -> Iterator[tuple[datetime, RolloutStep]]:
    """The engine on rehearsed evidence, with every approval and every item of the checklist on record.

    A class is weighed again only where something has become known, a production day has ended, or the class has moved:
    otherwise the same would come out. Where the legacy model judges no more, it is absent from the evidence.
    """
    lines: dict[str, _Line] = {}
    for now in ticks:
        active = [cls for cls in state.classes if cls.standing in CANDIDATE_JUDGES]
        for cls in active:
            former = lines.get(cls.class_name)
            if former is None or former.key != _key(cls):
                lines[cls.class_name] = _Line(cls, source(cls), former)
        observed = tuple(lines[cls.class_name].observe(now, shadow, policy) for cls in active)
        result = step(state, Observation(now, challenger, observed, (), _every_approval(state, challenger)), policy)
        yield now, result
        state = result.state


def _every_approval(state: RolloutState, challenger: Mapping[str, str]) -> tuple[Approval, ...]:
    return tuple(
        Approval(cls.class_name, target, cls.legacy, candidate, "rehearsal")
        for cls in state.classes
        for candidate in {cls.candidate, challenger.get(cls.class_name, cls.candidate)}
        for target in Phase
    )


def _key(cls: ClassState) -> tuple[object, ...]:
    """All of the state of a class on which its weighing depends."""
    return cls.standing, cls.since, cls.candidate, cls.legacy, cls.evidence_since, cls.answering_since


class _Line:
    """The evidence of a class in one phase, weighed when it has changed."""

    def __init__(self, cls: ClassState, table: EvidenceTable, former: _Line | None) -> None:
        self.cls, self.key = cls, _key(cls)
        self.seen: ClassObservation | None = None
        self.alone_since = _alone_since(cls, former)
        if self.alone_since is not None:
            table = replace(table, legacy=np.where(table.received >= self.alone_since, ABSENT, table.legacy))
        order = np.argsort(table.slot, kind="stable")
        self.table = EvidenceTable(**{name: column[order] for name, column in vars(table).items()})
        self.day_ends = np.array([day.end for day in Evidence(self.table, 0).days], dtype=np.int64)
        self.weighed = (-1, -1)

    def observe(self, now: datetime, shadow: ShadowParams, policy: RolloutParams) -> ClassObservation:
        until = slot_of(now)
        num_known = int(np.searchsorted(self.table.slot, until))
        num_closed = int(np.searchsorted(self.day_ends, until, side="right"))
        if self.seen is None or self.weighed != (num_known, num_closed):
            table = self.table.where(np.arange(len(self.table)) < num_known)
            evidence = evidence_of(self.cls, table, until, policy.window_days)
            self.seen = weigh(self.cls, evidence, ChecklistItem, shadow, policy)
            self.weighed = num_known, num_closed
        return self.seen


def _alone_since(cls: ClassState, former: _Line | None) -> int | None:
    """Slot from which on the legacy model has not judged; None where it does."""
    if cls.standing in LEGACY_JUDGES:
        return None
    is_later = former is not None and (former.cls.candidate, former.cls.legacy) == (cls.candidate, cls.legacy)
    if is_later and former is not None and former.alone_since is not None:
        return former.alone_since
    return slot_of(cls.since)
