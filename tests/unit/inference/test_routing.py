"""Who answers and who judges beside, by phase and share; which models must be in memory; when a route waits."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from shadowline.core.params import Unplanned
from shadowline.inference.model_pool import LoadedModel, PooledModel
from shadowline.inference.routing import (
    CANDIDATE,
    LEGACY,
    Route,
    required_models,
    route_of,
    traffic_bucket,
    unplanned_options,
    unplanned_state,
)
from shadowline.records.model_locations import KnownModels, ModelLocation
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState

SINCE = datetime(2026, 1, 5, tzinfo=UTC)
IDS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(2_000)]
P = Phase


def state(phase: Phase, share: float = 0.0, candidate: str = "new") -> ClassState:
    return ClassState("bolt", 1, phase, SINCE, "old", candidate, share)


def held(phase: Phase, share: float = 0.0) -> ClassState:
    return replace(state(phase, share), phase=Phase.HELD, held_from=phase, held_at=SINCE)


def model(fingerprint: str) -> PooledModel:
    return PooledModel(ModelLocation(fingerprint, "bolt", "legacy", "models/bolt", "1"), LoadedModel(None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("standing", "share", "answers", "shadow"),
    [
        (P.LEGACY, 0.0, LEGACY, None),
        (P.SHADOW, 0.0, LEGACY, CANDIDATE),
        (P.LIVE, 1.0, CANDIDATE, LEGACY),
        (P.LEGACY_READ_ONLY, 1.0, CANDIDATE, LEGACY),
        (P.LEGACY_OFF, 1.0, CANDIDATE, None),
        (P.LEGACY_DELETED, 1.0, CANDIDATE, None),
        (P.ROLLED_BACK, 0.0, LEGACY, None),
        (P.ROLLED_BACK, 1.0, LEGACY, None),  # whatever share is left over
        (P.LEGACY_OFF, 0.0, CANDIDATE, None),
    ],
)
def test_the_phase_decides_who_answers_and_who_judges_beside(standing, share, answers, shadow):
    phases = [state(standing, share)]
    phases += [held(standing, share)] if standing is not P.LEGACY_DELETED else []
    for phase in phases:
        route = Route(phase, {})
        assert {route.side_of(image_id) for image_id in IDS[:50]} == {answers}
        assert route.shadow_of(answers) == shadow


def test_a_canary_answers_about_its_share_and_both_judge():
    route = Route(state(P.CANARY, 0.1), {})
    answered = [route.side_of(image_id) for image_id in IDS]
    assert answered.count(CANDIDATE) == pytest.approx(0.1 * len(IDS), rel=0.2)
    assert (route.shadow_of(CANDIDATE), route.shadow_of(LEGACY)) == (LEGACY, CANDIDATE)


def test_an_image_stays_with_the_candidate_when_the_share_grows():
    small, large = (Route(state(P.CANARY, share), {}) for share in (0.1, 0.5))
    ours = [image_id for image_id in IDS if small.side_of(image_id) == CANDIDATE]
    assert {large.side_of(our) for our in ours} == {CANDIDATE}


def test_outside_the_rollout_the_preferred_model_answers_alone_and_else_the_other():
    both = KnownModels("old", "new")
    for known, preferred, broken, answers in (
        (both, Unplanned.LEGACY, (), LEGACY),
        (both, Unplanned.CHAMPION, (), CANDIDATE),
        (both, Unplanned.LEGACY, ("old",), CANDIDATE),
        (both, Unplanned.CHAMPION, ("new",), LEGACY),
        (both, Unplanned.CHAMPION, ("new", "old"), CANDIDATE),  # then its problem is told
        (KnownModels(None, "new"), Unplanned.LEGACY, (), CANDIDATE),
        (KnownModels("old", None), Unplanned.CHAMPION, (), LEGACY),
    ):
        one = unplanned_state("bolt", unplanned_options(known, preferred), broken)
        route = Route(one, {})
        assert {route.side_of(image_id) for image_id in IDS[:50]} == {answers}
        assert route.shadow_of(answers) is None
        assert required_models(one) == {"old" if answers == LEGACY else "new": answers}


def test_positions_are_in_the_half_open_unit_interval():
    assert traffic_bucket("0" * 64) == 0.0
    assert 0.999 < traffic_bucket("f" * 64) < 1.0


@pytest.mark.parametrize(
    ("phase", "models"),
    [
        (P.LEGACY, {"old": LEGACY}),
        (P.SHADOW, {"old": LEGACY, "new": CANDIDATE}),
        (P.LEGACY_OFF, {"old": LEGACY, "new": CANDIDATE}),  # a rollback must find the legacy model in memory
        (P.LEGACY_DELETED, {"new": CANDIDATE}),
        (P.ROLLED_BACK, {"old": LEGACY}),
    ],
)
def test_what_may_answer_soon_is_in_memory(phase, models):
    assert required_models(state(phase)) == models


def test_a_route_waits_for_its_models_and_the_old_one_stays():
    before = Route(state(P.LEGACY), {LEGACY: model("old")})
    models = {"old": model("old")}
    assert route_of(state(P.LIVE, 1.0), models, {}, before) is before
    models["new"] = model("new")
    assert route_of(state(P.LIVE, 1.0), models, {}, before).models.keys() == {LEGACY, CANDIDATE}


def test_a_rollback_waits_for_nothing():
    before = Route(state(P.LIVE, 1.0), {LEGACY: model("old"), CANDIDATE: model("new")})
    after = route_of(state(P.ROLLED_BACK), {"old": model("old")}, {}, before)
    assert after.side_of(IDS[0]) == LEGACY
    assert after.models.keys() == {LEGACY}


def test_a_model_that_will_not_load_holds_no_phase_up_and_says_why():
    before = Route(state(P.SHADOW), {LEGACY: model("old"), CANDIDATE: model("new")})
    other = state(P.SHADOW, candidate="newer")
    after = route_of(other, {"old": model("old")}, {"newer": "ValueError: broken"}, before)
    assert after.state is other
    assert after.problems == {CANDIDATE: "ValueError: broken"}


def test_a_class_that_never_had_a_legacy_model_needs_its_first_one_alone() -> None:
    waiting = replace(state(P.LEGACY), legacy="")
    assert required_models(waiting) == {}
    alone = replace(state(P.ALONE, 1.0), legacy="")
    assert required_models(alone) == {"new": CANDIDATE}
    route = Route(alone, {})
    assert {route.side_of(image_id) for image_id in IDS[:50]} == {CANDIDATE} and route.shadow_of(CANDIDATE) is None
