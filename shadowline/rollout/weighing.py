"""Turns the evidence of a class into the observation for the engine. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from shadowline.core.params import RolloutParams, ShadowParams
from shadowline.evaluation.evidence import UNLABELLED, Evidence, EvidenceTable, slot_of, start_of
from shadowline.rollout.guards import GuardResult, check_guards, misses_bound
from shadowline.rollout.observation import ChecklistItem, ClassObservation
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState
from shadowline.rollout.verdict import ShadowVerdict, judge_agreement, unproven_misses


def evidence_of(cls: ClassState, table: EvidenceTable, closed_until: int, window_days: int) -> Evidence:
    """The evidence of a class whose candidate is active; `table` holds nothing from `closed_until` on.

    A candidate without a legacy model is compared with its own first production days.
    """
    if cls.legacy:
        return Evidence(table, closed_until, slot_of(cls.answering_since) if cls.answering_since else None)
    days = Evidence(table, closed_until).days
    return Evidence(table, closed_until, days[window_days].first if len(days) > window_days else None)


def weigh(
    cls: ClassState, evidence: Evidence, on_record: Iterable[ChecklistItem], shadow: ShadowParams, policy: RolloutParams
) -> ClassObservation:
    """Guards, verdict and clocks of a class, as of the last quarter of an hour that has ended.

    In shadow mode the bound of agreement is the one that the candidate must reach there.
    """
    least_agreement = shadow.min_agreement if cls.standing is Phase.SHADOW else policy.guards.agreement.bound
    guards, verdict = appraise(evidence, shadow, policy, least_agreement)
    since = cls.evidence_since or cls.since
    return ClassObservation(
        class_name=cls.class_name,
        legacy=cls.legacy,
        candidate=cls.candidate,
        verdict=verdict,
        guards=guards,
        phase_days=evidence.num_days(cls.since, policy.min_day_images),
        parallel_days=evidence.num_days(since, policy.min_day_images, both=True),
        last_received=evidence.last_received,
        longest_pause=evidence.longest_pause,
        unmeasured_since=_unmeasured_since(cls, evidence, policy),
        unproven_misses=_unproven_misses(cls, evidence, shadow, policy),
        evidence=frozenset(on_record),
    )


def _unmeasured_since(cls: ClassState, evidence: Evidence, policy: RolloutParams) -> datetime | None:
    """Since when no part that no model chose has a label, where that is `window_days` production days or more."""
    table = evidence.table
    sampled = table.received[table.sampled & (table.label != UNLABELLED) & table.judged]
    last = max(cls.since, start_of(int(sampled.max()) + 1)) if sampled.size else cls.since
    return last if evidence.num_days(last, policy.min_day_images) >= policy.window_days else None


def _unproven_misses(cls: ClassState, evidence: Evidence, shadow: ShadowParams, policy: RolloutParams) -> str:
    """What has to be proven before a legacy model that is off is deleted; empty where nothing is missing."""
    if cls.standing is not Phase.LEGACY_OFF or evidence.answering_since is None:
        return ""
    bound = misses_bound(evidence, evidence.answering_since, policy)
    return unproven_misses(evidence, slot_of(cls.since), bound, shadow, policy.window_days)


def appraise(
    evidence: Evidence, shadow: ShadowParams, policy: RolloutParams, least_agreement: float
) -> tuple[tuple[GuardResult, ...], ShadowVerdict]:
    """All guards, and the verdict that they and the evidence lead to."""
    guards = check_guards(evidence, policy, least_agreement)
    failures = [guard.reason for guard in guards if guard.hard and guard.active]
    return guards, judge_agreement(evidence, failures, shadow, policy)
