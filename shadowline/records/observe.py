"""What the engine is told at a tick, read out of the records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from shadowline.params import Params
from shadowline.records.rollout import StoredOrder
from shadowline.records.stores import Records
from shadowline.rollout.observation import ClassObservation, Observation
from shadowline.rollout.phases import CANDIDATE_JUDGES
from shadowline.rollout.state import ClassState, RolloutState
from shadowline.shadow import judge


def observe(
    state: RolloutState,
    records: Records,
    challenger: Mapping[str, str],
    now: datetime,
    params: Params,
    order: StoredOrder | None = None,
) -> Observation:
    """Evidence of every class whose candidate is at work, as of `now`, and the words of people."""
    at_work = [one for one in state.classes if one.standing in CANDIDATE_JUDGES]
    return Observation(
        now=now,
        challenger=challenger,
        classes=tuple(observe_class(one, records, now, params) for one in at_work),
        orders=(order.order,) if order else (),
        approvals=records.rollout.approvals(),
    )


def observe_class(one: ClassState, records: Records, now: datetime, params: Params) -> ClassObservation:
    """Evidence of one class: all its pairs for the shadow verdict, the last days for the guards."""
    pairs, models = records.pairs, (one.class_name, one.candidate, one.legacy)
    counts = pairs.counts(*models, until=now)
    since = now - timedelta(days=params.rollout.window_days)
    window = pairs.window(*models, since, now)
    return ClassObservation(
        class_name=one.class_name,
        observed_at=now,
        legacy=one.legacy,
        candidate=one.candidate,
        verdict=judge(counts, pairs.first_at(*models), now, params.shadow),
        window=pairs.counts(*models, since, now),
        num_judged=window.num_judged,
        num_failed=window.num_failed,
        num_dropped=window.num_dropped,
        p95_latency_ms=window.p95_latency_ms,
        num_false_alarms=window.false_alarms[0],
        num_misses=window.misses[0],
        evidence=frozenset(records.rollout.evidence(one.class_name, one.legacy)),
    )
