"""When a stage of the demo is over, and under which policy it runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from shadowline.core.params import Params
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState, RolloutState
from tasks.rollout.demo_migration import FIRST_DAY, DemoStage, StopReason, stop_reason, with_guard_bounds

NEW = {"bolt": "new", "nut": "new nut"}


@pytest.fixture
def demo(params: Params) -> Params:
    return params.model_copy(update={"demo": params.demo.model_copy(update={"fault_class": "bolt"})})


def state(bolt: Phase, candidate: str = "new", nut: Phase = Phase.LEGACY) -> RolloutState:
    one = ClassState("bolt", 1, bolt, FIRST_DAY, "old", candidate, 0.0)
    return RolloutState((one, replace(one, class_name="nut", wave=2, phase=nut, candidate="new nut")), 1)


@pytest.mark.parametrize("stage", [DemoStage.FIRST, DemoStage.SABOTAGE])
def test_a_stage_is_over_when_its_own_candidate_was_taken_back(demo: Params, stage: DemoStage) -> None:
    def reason(now: RolloutState) -> StopReason | None:
        return stop_reason(now, NEW, FIRST_DAY, demo, stage)

    assert reason(state(Phase.ROLLED_BACK)) is StopReason.NEEDS_VERSION
    assert reason(state(Phase.ROLLED_BACK, "of the stage before")) is None
    assert reason(state(Phase.SHADOW)) is None


def test_the_demo_is_over_when_every_class_has_arrived_or_stays_or_the_days_are_over(demo: Params) -> None:
    late = FIRST_DAY + timedelta(days=demo.demo.max_days)
    arrived = state(Phase.LEGACY_DELETED, nut=Phase.ROLLED_BACK)
    assert stop_reason(arrived, NEW, FIRST_DAY, demo, DemoStage.REMEDY) is StopReason.FINISHED
    assert stop_reason(state(Phase.LEGACY_DELETED), NEW, FIRST_DAY, demo, DemoStage.REMEDY) is None
    assert stop_reason(state(Phase.SHADOW), NEW, late, demo, DemoStage.FIRST) is StopReason.OUT_OF_DAYS


def test_the_policy_is_the_shipped_one_but_for_the_bounds_that_the_parameters_name(demo: Params) -> None:
    named = demo.model_copy(update={"demo": demo.demo.model_copy(update={"guard_bounds": {"misses": 0.5}})})
    changed, shipped = with_guard_bounds(named).rollout, demo.rollout
    assert changed.guards.misses.bound == 0.5
    assert changed.guards.model_copy(update={"misses": shipped.guards.misses}) == shipped.guards
    assert changed.model_copy(update={"guards": shipped.guards}) == shipped


def test_a_bound_of_no_guard_is_refused(demo: Params) -> None:
    raw = demo.model_dump(mode="json")
    raw["demo"]["guard_bounds"] = {"latensy": 1.0}
    with pytest.raises(ValueError, match=r"no such guard: latensy; use names of rollout\.guards"):
        Params.model_validate(raw)
