"""When an act of the demo's migration is over."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from shadowline.core.params import Params
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState, RolloutState
from tasks.rollout.demo_migration import FIRST_DAY, Act, Curtain, _curtain

NEW = {"bolt": "new", "nut": "new nut"}


@pytest.fixture
def demo(params: Params) -> Params:
    return params.model_copy(update={"demo": params.demo.model_copy(update={"fault_class": "bolt"})})


def state(bolt: Phase, candidate: str = "new", nut: Phase = Phase.LEGACY) -> RolloutState:
    one = ClassState("bolt", 1, bolt, FIRST_DAY, "old", candidate, 0.0)
    return RolloutState((one, replace(one, class_name="nut", wave=2, phase=nut, candidate="new nut")), 1)


@pytest.mark.parametrize("act", [Act.FIRST, Act.SABOTAGE])
def test_an_act_is_over_when_its_own_candidate_was_taken_back(demo: Params, act: Act) -> None:
    def curtain(now: RolloutState) -> Curtain | None:
        return _curtain(now, NEW, FIRST_DAY, demo, act)

    assert curtain(state(Phase.ROLLED_BACK)) is Curtain.NEEDS_VERSION
    assert curtain(state(Phase.ROLLED_BACK, "of the act before")) is None
    assert curtain(state(Phase.SHADOW)) is None


def test_the_play_is_over_when_every_class_has_arrived_or_stays_or_the_days_are_over(demo: Params) -> None:
    late = FIRST_DAY + timedelta(days=demo.demo.max_days)
    arrived = state(Phase.LEGACY_DELETED, nut=Phase.ROLLED_BACK)
    assert _curtain(arrived, NEW, FIRST_DAY, demo, Act.REMEDY) is Curtain.FINISHED
    assert _curtain(state(Phase.LEGACY_DELETED), NEW, FIRST_DAY, demo, Act.REMEDY) is None
    assert _curtain(state(Phase.SHADOW), NEW, late, demo, Act.FIRST) is Curtain.OUT_OF_DAYS
