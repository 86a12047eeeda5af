"""What the rules of evidence do with simulated candidates whose errors are known: `shadowline bench rollout`.

    power(params, progress, num_seeds=9)                # how soon a candidate that misses defects is stopped
    error_rates(params, progress, num_rollouts=10_000)  # how often an equal one is stopped, and a worse one passes

Times are production days, counted from the day on which the candidate becomes bad.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import product
from statistics import median

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from shadowline.core.params import Params
from shadowline.core.progress import Progress
from shadowline.evaluation.evidence import Evidence, EvidenceTable, slot_of, start_of
from shadowline.rollout.guards import check_guards
from shadowline.rollout.rehearsal import Line, Reviews, SimulatedCandidate, rehearse
from shadowline.rollout.verdict import VerdictOutcome, judge_agreement

DEFECT_RATES = (0.005, 0.01, 0.03, 0.05)
LOST_SHARES = (0.1, 0.3, 1.0)  # of the defects that a good candidate finds
REVIEW_SHARES = (0.0, 0.02, 0.1)
PARTS_PER_DAY = (100, 1_000, 10_000)
_HORIZONS = (4, 16, 60)  # days that are looked at, as long as nothing has stopped the candidate
_BESIDE = 28  # days beside the legacy model, before it is switched off


@dataclass(frozen=True)
class Power:
    """One cell of the power table."""

    beside_legacy: bool  # both models judge; otherwise the legacy model is off
    parts_per_day: int
    defect_rate: float
    lost_share: float
    review_share: float
    num_stopped: int
    num_passed: int  # of those that were not stopped: the verdict was pass on some day, beside the legacy model
    num_rollouts: int
    median_days: float | None  # until stopped; None where fewer than half were


@dataclass(frozen=True)
class ErrorRate:
    """How often a candidate was stopped or passed wrongly, with a Wilson interval."""

    name: str
    num_wrong: int
    num_rollouts: int
    low: float
    high: float
    promised: float


def power(params: Params, progress: Progress, num_seeds: int) -> list[Power]:
    """All cells, both models judging and then the candidate alone. All disagreements and all alarms are labelled.

    Each cell is reported when it is finished.
    """
    cells = list(product((True, False), PARTS_PER_DAY, DEFECT_RATES, LOST_SHARES, REVIEW_SHARES))
    results = []
    with progress.task("power", total=len(cells)) as task:
        for beside, parts, defects, lost, share in cells:
            line = Line(parts_per_day=parts, defect_rate=defects)
            cell = _power_cell(line, lost, share, params, num_seeds, beside=beside)
            results.append(cell)
            task.advance(note=f"{parts} parts a day, {defects:.1%} defects")
            progress.message(_in_words(cell))
    return results


def _in_words(cell: Power) -> str:
    models = "beside the legacy model" if cell.beside_legacy else "without a legacy model"
    days = "inconclusive" if cell.median_days is None else f"median {cell.median_days:.1f} days"
    parts = f"{cell.parts_per_day} parts a day, {cell.defect_rate:.1%} defects, {cell.lost_share:.0%} of them lost"
    fate = f"{cell.num_stopped} of {cell.num_rollouts} stopped, {cell.num_passed} passed"
    return f"{models}, {parts}, {cell.review_share:.0%} reviewed: {fate}, {days}"


def _power_cell(
    line: Line, lost_share: float, review_share: float, params: Params, num_seeds: int, *, beside: bool
) -> Power:
    start = 0 if beside else _BESIDE
    candidate = SimulatedCandidate(missed=line.legacy_missed + lost_share * (1.0 - line.legacy_missed), from_day=start)
    tested = line if beside else replace(line, legacy_off_from=_BESIDE)
    days: list[float] = []
    passed = 0
    for seed in range(num_seeds):
        stopped = _days_until_stopped(tested, candidate, Reviews(review_share=review_share), params, seed, start)
        days += [] if stopped is None else [stopped]
        if stopped is None and beside:
            table = rehearse(tested, candidate, Reviews(review_share=review_share), _HORIZONS[-1], seed)
            passed += first_pass(table, params) is not None
    waited = [*days, *[np.inf] * (num_seeds - len(days))]
    middle = median(waited)
    return Power(
        beside, line.parts_per_day, line.defect_rate, lost_share, review_share, len(days), passed, num_seeds,
        None if np.isinf(middle) else float(middle),
    )  # fmt: skip


def _days_until_stopped(
    line: Line, candidate: SimulatedCandidate, reviews: Reviews, params: Params, seed: int, start: int
) -> float | None:
    for horizon in _HORIZONS:
        table = rehearse(line, candidate, reviews, start + horizon, seed)
        at = first_stop(table, params, answering_day=start or None)
        if at is not None:
            return (at - start_of(int(table.received.min()))) / timedelta(days=1) - start
    return None


def first_stop(table: EvidenceTable, params: Params, answering_day: int | None = None) -> datetime | None:
    """When a hard guard trips first; `answering_day`: calendar day on which the candidate began to answer."""
    evidence = _whole(table, answering_day)
    guards = check_guards(evidence, params.rollout, params.shadow.min_agreement)
    return min((guard.crossed_at[0] for guard in guards if guard.hard and guard.crossed_at), default=None)


def first_pass(table: EvidenceTable, params: Params) -> datetime | None:
    """The end of the first production day at which the verdict is pass."""
    evidence = _whole(table, None)
    for day in evidence.days[params.shadow.min_days - 1 :]:
        seen = Evidence(table.where(table.slot < day.end), day.end)
        if judge_agreement(seen, (), params.shadow, params.rollout).outcome is VerdictOutcome.PASS:
            return day.closed_at
    return None


def _whole(table: EvidenceTable, answering_day: int | None) -> Evidence:
    first = int(table.received.min())
    answering = None if answering_day is None else first + answering_day * slot_of(start_of(0) + timedelta(days=1))
    return Evidence(table, int(table.slot.max()) + slot_of(start_of(0) + timedelta(days=1)), answering)


# --- errors -----------------------------------------------------------------------------------------------------


def error_rates(params: Params, progress: Progress, num_rollouts: int, num_days: int = 60) -> list[ErrorRate]:
    """Equal candidates that are stopped in `num_days`, and worse ones that pass.

    A stop has its time in the evidence, so that every schedule of ticks sees the same stops; see
    tests/unit/rollout/test_passage_of_time.py.

    The worse candidate loses more known defects than `shadow.max_lost_share` allows, by a hundredth.
    """
    line = Line()
    equal = SimulatedCandidate(missed=line.legacy_missed, false_alarms=line.legacy_false_alarms)
    worse = replace(equal, missed=line.legacy_missed + params.shadow.max_lost_share + 0.01)
    stops = 0
    with progress.task("equal candidates", total=num_rollouts) as task:
        for seed in range(num_rollouts):
            stops += first_stop(rehearse(line, equal, Reviews(), num_days, seed), params) is not None
            task.advance()
    few = max(num_rollouts // 5, 1)
    passes = 0
    with progress.task("worse candidates", total=few) as task:
        for seed in range(few):
            table = rehearse(line, worse, Reviews(), num_days, seed)
            passed, stopped = first_pass(table, params), first_stop(table, params)
            passes += passed is not None and (stopped is None or passed < stopped)
            task.advance()
    return [
        _rate("an equal candidate is stopped", stops, num_rollouts, params.rollout.stop_error),
        _rate("a worse candidate passes", passes, few, 1.0 - params.shadow.confidence),
    ]


def _rate(name: str, num_wrong: int, total: int, promised: float) -> ErrorRate:
    low, high = proportion_confint(num_wrong, total, method="wilson")
    return ErrorRate(name, num_wrong, total, float(low), float(high), promised)
