"""May the candidate take over? The verdict on the evidence of one class; source and numbers: docs/decisions/0022.

    verdict = judge_agreement(evidence, failures, params.shadow, params.rollout)
    verdict.outcome, verdict.reasons

Agreement is made of good parts for the most and says little of the bad ones: to pass, a class also needs alarms, labels
on nearly all disagreements, and the proof that it loses no more known defects than the policy allows. Whatever is
missing is named, and the class waits for it without a time limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from shadowline.core.params import RolloutParams, ShadowParams
from shadowline.evaluation.agreement import Agreement, Cells, PairCounts, agree
from shadowline.evaluation.evidence import (
    ALARM,
    ANOMALOUS,
    NORMAL,
    UNLABELLED,
    Evidence,
    EvidenceTable,
    count_cells,
    start_of,
)
from shadowline.evaluation.sequential_tests import confidence_bounds, log_wealth
from shadowline.rollout.guards import sampled_misses


class VerdictOutcome(StrEnum):
    PASS = "pass"  # the evidence proves that the bound is kept
    FAIL = "fail"  # the evidence proves that it is not
    INCONCLUSIVE = "inconclusive"  # there is too little evidence for either


@dataclass(frozen=True)
class ShadowVerdict:
    """Whether the candidate may take over, with the reasons."""

    outcome: VerdictOutcome
    reasons: tuple[str, ...]
    agreement: Agreement


def judge_agreement(
    evidence: Evidence, failures: Sequence[str], shadow: ShadowParams, rollout: RolloutParams
) -> ShadowVerdict:
    """The verdict on one class, as of the ends of its production days.

    1. fail          the bound of a hard guard is proven crossed (`failures`, in words)
    2. pass          at the end of one of the newest `rollout.window_days` production days nothing was missing: pairs,
                     days, alarms and labels, and the proofs that agreement reaches its bound and that no more
                     known defects are lost than `max_lost_share`
    3. inconclusive  otherwise, with what is missing at the end of the newest day

    A candidate that is worse than these bounds passes at a given look with a probability of at most 1 − `confidence`
    over all looks together: both proofs are tests that are valid at every look.
    """
    agreement = agree(PairCounts(count_cells(evidence.table)), shadow.confidence)
    if failures:
        return ShadowVerdict(VerdictOutcome.FAIL, tuple(failures), agreement)
    closed = [number for number, day in enumerate(evidence.days) if day.end <= evidence.closed_until]
    lacking: list[str] = ["no production day has ended yet"]
    for number in closed[-rollout.window_days :]:
        lacking = _lacking(evidence, number, shadow, rollout.min_day_images)
        if not lacking:
            at = evidence.days[number].closed_at
            reason = f"settled agreement {agreement.settled}, nothing was missing on {at:%Y-%m-%d %H:%M}"
            return ShadowVerdict(VerdictOutcome.PASS, (reason,), agreement)
    return ShadowVerdict(VerdictOutcome.INCONCLUSIVE, tuple(lacking), agreement)


def _lacking(evidence: Evidence, day: int, shadow: ShadowParams, min_day_images: int) -> list[str]:
    """What the evidence lacked at the end of a production day."""
    days, end = evidence.days, evidence.days[day].end
    table = evidence.known_at(end)
    due = (
        table.where(table.received < days[max(0, day + 1 - shadow.review_days)].first) if shadow.review_days else table
    )
    num_days = Evidence(table, end).num_days(start_of(days[0].first), min_day_images, both=True)
    cells = count_cells(table)
    alarms = {"candidate": cells[:, ALARM].sum(), "legacy model": cells[:, :, ALARM].sum()}
    labelled = {"candidate": cells[NORMAL:, ALARM].sum(), "legacy model": cells[NORMAL:, :, ALARM].sum()}
    lines = [
        _short_of(int(cells.sum()), shadow.min_pairs, "pairs"),
        _short_of(num_days, shadow.min_days, f"production days with {min_day_images} images"),
        *(_short_of(int(number), shadow.min_alarms, f"alarms of the {model}") for model, number in alarms.items()),
        *(
            _short_of(int(n), shadow.min_labelled_alarms, f"labelled alarms of the {model}")
            for model, n in labelled.items()
        ),
        _unlabelled(due.where(due.both_judged & (due.candidate != due.legacy)), shadow, "disagreements"),
        _unlabelled(due.where(due.both_judged & due.drawn), shadow, "parts drawn for review"),
        _unproven_agreement(cells, shadow),
        _unproven_hits(cells, shadow),
    ]
    return [line for line in lines if line]


def _short_of(number: int, needed: int, of: str) -> str:
    return f"{number} {of}, need {needed}" if number < needed else ""


def _unlabelled(table: EvidenceTable, shadow: ShadowParams, of: str) -> str:
    rows = table.where(table.produced)
    total, labelled = int(rows.count.sum()), int(rows.count[rows.label != UNLABELLED].sum())
    needed = math.ceil(shadow.min_labelled_share * total)
    return f"{labelled} of {total} {of} labelled, need {needed}" if labelled < needed else ""


def _unproven_agreement(cells: Cells, shadow: ShadowParams) -> str:
    """Settled agreement exceeds its bound: a pair that is neither agreement nor proven right counts against it."""
    counts = PairCounts(cells)
    hits = counts.num_settled
    if _is_proven([counts.num_pairs - hits, hits], (0.0, 1.0), shadow.min_agreement, shadow):
        return ""
    low, high = confidence_bounds([counts.num_pairs - hits, hits], (0.0, 1.0), shadow.confidence)
    return (
        f"settled agreement of {counts.num_pairs} pairs lies in [{low:.1%}, {high:.1%}], "
        f"not proven above {shadow.min_agreement:.1%}"
    )


def _unproven_hits(cells: Cells, shadow: ShadowParams) -> str:
    """Of the known defects the candidate finds at most `max_lost_share` fewer than the legacy model."""
    lost, gained = PairCounts(cells).lost_and_gained
    total = int(cells[ANOMALOUS].sum())
    if _is_proven([lost, total - lost - gained, gained], (-1.0, 0.0, 1.0), -shadow.max_lost_share, shadow):
        return ""
    return (
        f"of {total} known defects {lost} are found by the legacy model alone and {gained} by the candidate alone: "
        f"not proven that it loses at most {shadow.max_lost_share:.0%}"
    )


def unproven_misses(evidence: Evidence, since: int, bound: float, shadow: ShadowParams, window_days: int) -> str:
    """Why it is not proven that the candidate misses at most the share `bound` of the known defects since a slot.

    Only parts that no model chose count. As of the ends of the newest `window_days` production days; empty where it was
    proven at one of them.
    """
    closed = [day for day in evidence.days if day.end <= evidence.closed_until]
    hits = missed = 0
    for day in closed[-window_days:]:
        hits, missed = (int(number) for number in sampled_misses(evidence.known_at(day.end), since))
        if _is_proven([missed, hits], (0.0, 1.0), 1.0 - bound, shadow):
            return ""
    return (
        f"of {hits + missed} known defects that no model chose {missed} were missed without the legacy model: "
        f"not proven that at most {bound:.0%} are; send parts of known label"
    )


def _is_proven(counts: Sequence[int], values: tuple[float, ...], bound: float, shadow: ShadowParams) -> bool:
    """The mean exceeds `bound`. A bound at the largest value needs nothing else, one at the smallest needs no proof."""
    if bound >= max(values):
        return counts[-1] == sum(counts)
    if bound <= min(values):
        return True
    return float(log_wealth(counts, values, bound)) >= math.log(1.0 / (1.0 - shadow.confidence))
