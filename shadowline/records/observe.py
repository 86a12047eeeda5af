"""Reads the engine's observation for a tick from the records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from shadowline.core.params import Params
from shadowline.records.approvals import StoredOrder
from shadowline.records.evidence import read_evidence
from shadowline.records.stores import Records
from shadowline.rollout.observation import ClassObservation, Observation
from shadowline.rollout.phases import CANDIDATE_JUDGES
from shadowline.rollout.state import ClassState, RolloutState
from shadowline.rollout.weighing import weigh


def observe(
    state: RolloutState,
    records: Records,
    challenger: Mapping[str, str],
    now: datetime,
    params: Params,
    order: StoredOrder | None = None,
) -> Observation:
    """Evidence of every class whose candidate is active, as of the last quarter of an hour, approvals and the order.

    A challenger that was rolled back from a class before is left out for it: only a person can plan it again.
    """
    active = [cls for cls in state.classes if cls.standing in CANDIDATE_JUDGES]
    return Observation(
        now=now,
        challenger=_without_failed(challenger, state, records),
        classes=tuple(observe_class(cls, records, now, params) for cls in active),
        orders=(order.order,) if order else (),
        approvals=records.approvals.approvals(),
    )


def _without_failed(challenger: Mapping[str, str], state: RolloutState, records: Records) -> dict[str, str]:
    candidates = {cls.class_name: cls.candidate for cls in state.classes}
    return {
        name: new
        for name, new in challenger.items()
        if candidates.get(name, new) == new or not records.rollout.was_taken_back(name, new)
    }


def observe_class(cls: ClassState, records: Records, now: datetime, params: Params) -> ClassObservation:
    """Evidence of one class since its candidate began to be compared."""
    evidence = read_evidence(records.pairs.engine, cls, now, params.rollout)
    on_record = records.approvals.evidence(cls.class_name, cls.legacy)
    return weigh(cls, evidence, on_record, params.shadow, params.rollout)
