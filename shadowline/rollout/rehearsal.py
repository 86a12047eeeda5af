"""Invented lines and candidates, from which evidence is made as the gateway would record it. Pure, seeded.

    line = Line(parts_per_day=100, defect_rate=0.03)
    evidence = rehearse(line, Candidate(missed=0.3), Reviews(), num_days=60, seed=1)

For `shadowline bench rollout` and for tests: what do the rules of evidence do with a candidate that is known to be bad?
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shadowline.evidence import (
    ABSENT,
    ALARM,
    ANOMALOUS,
    FAILED,
    NO_ALARM,
    NORMAL,
    SLOTS_A_DAY,
    UNLABELLED,
    EvidenceTable,
)

_FIRST_SLOT = 20_457 * SLOTS_A_DAY + 24  # 6:00 UTC on a Monday, 2026-01-05

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Line:
    """What comes along, and what the legacy model says of it."""

    parts_per_day: int = 100
    defect_rate: float = 0.03
    shift_slots: int = 64  # quarters of an hour a day in which parts come
    week_days: int = 7  # production days a week, from Monday on
    legacy_missed: float = 0.02  # of the defects
    legacy_false_alarms: float = 0.01  # of the good parts
    legacy_off_from: int | None = None  # calendar day from which it judges no more


@dataclass(frozen=True)
class Candidate:
    """How a candidate errs: on its own, or together with the legacy model."""

    missed: float = 0.02  # of the defects
    false_alarms: float = 0.01  # of the good parts
    shared: float = 0.0  # share of the parts on which it says what the legacy model says
    failed: float = 0.0  # share of the parts on which it fails
    kind_missed: float = 0.0  # share of the defects that are of a kind to which it is blind
    from_day: int = 0  # before this day it errs as a good one does
    worse_each_week: float = 0.0  # added to `missed`, every seven days
    slow: float = 0.0  # share of the answers that take longer than the latency guard allows
    slower_each_week: float = 0.0  # added to `slow`, every seven days
    delayed: bool = False  # says of each part what the legacy model said of the one before


@dataclass(frozen=True)
class Reviews:
    """What inspectors look at, and when."""

    disagreements: float = 1.0  # share that is labelled
    alarms: float = 1.0  # share of the parts with an alarm of either model
    review_share: float = 0.02  # of all parts, drawn by chance
    answered: float = 1.0  # share of the drawn parts that is labelled
    delay_slots: int = 48  # from the part to its label


def rehearse(line: Line, candidate: Candidate, reviews: Reviews, num_days: int, seed: int) -> EvidenceTable:
    """Everything that becomes known in `num_days` calendar days, both models judging all the time."""
    rng = np.random.default_rng(seed)
    days = np.array([day for day in range(num_days) if day % 7 < line.week_days], dtype=np.int64)
    day = np.repeat(days, line.parts_per_day)
    position = np.tile(np.arange(line.parts_per_day), len(days))
    received = _FIRST_SLOT + day * SLOTS_A_DAY + position * line.shift_slots // line.parts_per_day
    defect = rng.random(len(day)) < line.defect_rate
    legacy = _decide(defect, np.full(len(day), line.legacy_missed), line.legacy_false_alarms, rng)
    said = _said(line, candidate, day, defect, legacy, rng)
    drawn = rng.random(len(day)) < reviews.review_share
    is_off = day >= (num_days if line.legacy_off_from is None else line.legacy_off_from)
    looked_at = (
        ((said != legacy) & ~is_off & (rng.random(len(day)) < reviews.disagreements))
        | (((said == ALARM) | (legacy & ~is_off)) & (rng.random(len(day)) < reviews.alarms))
        | (drawn & (rng.random(len(day)) < reviews.answered))
    )
    label = np.where(defect, ANOMALOUS, NORMAL)
    share = np.full(len(day), reviews.review_share)
    slow = rng.random(len(day)) < candidate.slow + candidate.slower_each_week * (day // 7)
    judged = np.where(is_off, ABSENT, legacy)
    return _table(received, label, said, judged, slow, drawn, share, looked_at, reviews.delay_slots)


def _decide(defect: Flags, missed: npt.NDArray[np.float64], false_alarms: float, rng: np.random.Generator) -> Flags:
    draw = rng.random(len(defect))
    alarms: Flags = np.where(defect, draw >= missed, draw < false_alarms)
    return alarms


def _said(
    line: Line,
    candidate: Candidate,
    day: npt.NDArray[np.int64],
    defect: Flags,
    legacy: Flags,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    bad = day >= candidate.from_day
    missed = np.where(bad, candidate.missed + candidate.worse_each_week * (day // 7), line.legacy_missed)
    alarms = _decide(defect, np.minimum(missed, 1.0), candidate.false_alarms, rng)
    good = _decide(defect, np.full(len(day), line.legacy_missed), line.legacy_false_alarms, rng)
    said = np.where(bad, alarms, good)
    said = np.where(rng.random(len(day)) < candidate.shared, legacy, said)
    said = np.where(bad & defect & (rng.random(len(day)) < candidate.kind_missed), False, said)
    said = np.concatenate([[False], legacy[:-1]]) if candidate.delayed else said
    decisions = np.where(said, ALARM, NO_ALARM)
    return np.where(bad & (rng.random(len(day)) < candidate.failed), FAILED, decisions).astype(np.int64)


def _table(
    received: npt.NDArray[np.int64],
    label: npt.NDArray[np.int64],
    said: npt.NDArray[np.int64],
    legacy: npt.NDArray[np.int64],
    slow: Flags,
    drawn: Flags,
    share: npt.NDArray[np.float64],
    looked_at: Flags,
    delay: int,
) -> EvidenceTable:
    parts: dict[str, npt.NDArray[Any]] = {
        "received": received,
        "candidate": said,
        "legacy": legacy,
        "slow": slow,
        "drawn": drawn,
    }
    parts["review_share"] = share
    looked = {name: column[looked_at] for name, column in parts.items()}
    known = looked["received"] + delay
    none, ones = np.full(len(received), UNLABELLED), np.ones(len(received), dtype=np.int64)
    first = {**parts, "slot": received, "label": none, "count": ones}
    taken = {**looked, "slot": known, "label": none[looked_at], "count": -ones[looked_at]}
    given = {**looked, "slot": known, "label": label[looked_at], "count": ones[looked_at]}
    return EvidenceTable.of({name: np.concatenate([rows[name] for rows in (first, taken, given)]) for name in first})
