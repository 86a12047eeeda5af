"""When the engine wants a person's word: it is all that a group of classes lacks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from shadowline.core.params import Params
from shadowline.evaluation.agreement import PairCounts, agree
from shadowline.rollout.engine import RolloutStep, step
from shadowline.rollout.guards import GuardResult
from shadowline.rollout.observation import (
    Approval,
    ApprovalRequest,
    ClassObservation,
    Observation,
    Order,
    OrderKind,
)
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState, RolloutState
from shadowline.rollout.verdict import ShadowVerdict, VerdictOutcome

START = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)
NOW = START + timedelta(days=40)
CHALLENGER = {"bolt": "v1-bolt", "nut": "v1-nut"}
AGREEMENT = agree(PairCounts(np.zeros((3, 2, 2), dtype=np.int64)), 0.95)


def in_shadow(name: str, wave: int = 1) -> ClassState:
    return ClassState(name, wave, Phase.SHADOW, START, f"legacy-{name}", CHALLENGER[name], 0.0, evidence_since=START)


def seen(one: ClassState, outcome: VerdictOutcome = VerdictOutcome.PASS, *guards: GuardResult) -> ClassObservation:
    verdict = ShadowVerdict(outcome, ("the evidence says so",), AGREEMENT)
    return ClassObservation(
        one.class_name, one.legacy, one.candidate, verdict, guards, 40, 40, NOW, timedelta(hours=8)
    )  # fmt: skip


def request(name: str, target: Phase = Phase.CANARY) -> ApprovalRequest:
    return ApprovalRequest(name, target, f"legacy-{name}", CHALLENGER[name])


BOTH = RolloutState((in_shadow("bolt"), in_shadow("nut")), 2)


def tick(params: Params, state: RolloutState, *classes: ClassObservation, **others: tuple[object, ...]) -> RolloutStep:
    observation = replace(Observation(NOW, CHALLENGER, classes), **others)  # type: ignore[arg-type]
    return step(state, observation, params.rollout)


def test_the_word_is_wanted_for_each_class_when_nothing_else_is_missing(params: Params) -> None:
    result = tick(params, BOTH, *map(seen, BOTH.classes))
    assert result.asks == (request("bolt"), request("nut"))
    assert result.state == BOTH
    assert all("a person's approval of canary" in line for line in result.waiting)


def test_one_that_is_approved_is_not_asked_for_again(params: Params) -> None:
    given = Approval("bolt", Phase.CANARY, "legacy-bolt", "v1-bolt", "Ada")
    assert tick(params, BOTH, *map(seen, BOTH.classes), approvals=(given,)).asks == (request("nut"),)


def test_an_approval_of_other_models_is_none(params: Params) -> None:
    given = Approval("bolt", Phase.CANARY, "legacy-bolt", "v0-bolt", "Ada")
    assert request("bolt") in tick(params, BOTH, *map(seen, BOTH.classes), approvals=(given,)).asks


def test_nobody_is_asked_as_long_as_a_class_of_the_group_waits_for_evidence(params: Params) -> None:
    bolt, nut = BOTH.classes
    assert tick(params, BOTH, seen(bolt), seen(nut, VerdictOutcome.INCONCLUSIVE)).asks == ()
    assert tick(params, BOTH, seen(bolt)).asks == ()


def test_nobody_is_asked_while_a_soft_guard_bars_the_way(params: Params) -> None:
    bolt, nut = BOTH.classes
    slow = GuardResult("latency", False, (NOW,), True, "latency: 12% slower than 150 ms")
    assert tick(params, BOTH, seen(bolt), seen(nut, VerdictOutcome.PASS, slow)).asks == ()


def test_a_phase_that_opens_by_itself_asks_nobody(params: Params) -> None:
    policy = params.rollout.model_copy(update={"approvals": ()})
    observation = Observation(NOW, CHALLENGER, tuple(map(seen, BOTH.classes)))
    assert step(BOTH, observation, policy).asks == ()


@pytest.mark.parametrize("kind", [OrderKind.ROLL_BACK, OrderKind.HOLD])
def test_nobody_is_asked_about_a_class_that_a_person_stops(params: Params, kind: OrderKind) -> None:
    order = Order(kind, ("bolt",), "Ada", "complaint 4711")
    asked = tick(params, BOTH, *map(seen, BOTH.classes), orders=(order,)).asks
    assert "bolt" not in {question.class_name for question in asked}


def test_a_successor_is_asked_for_like_a_first_candidate(params: Params) -> None:
    """The quarterly case: what was the candidate is the legacy model of what the quarter brought."""
    old = replace(in_shadow("bolt"), phase=Phase.LEGACY_DELETED, share=1.0, candidate="v0-bolt")
    entered = tick(params, RolloutState((old,), 9)).state
    one = entered.of("bolt")
    assert (one.phase, one.legacy, one.candidate) == (Phase.SHADOW, "v0-bolt", "v1-bolt")
    asked = tick(params, entered, seen(one)).asks
    assert asked == (ApprovalRequest("bolt", Phase.CANARY, "v0-bolt", "v1-bolt"),)
