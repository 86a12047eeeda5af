"""The plant in fast motion: a day is the same however often it is played, and shows what the phase allows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shadowline.manifest import Label
from shadowline.params import Params
from shadowline.records.pairs import Judgement
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState
from shadowline.simulation import JudgedStream, Part, day_of_pairs, reviewed

MORNING = datetime(2026, 1, 5, 6, tzinfo=UTC)
PARTS = tuple(
    Part(f"{i:064x}", f"{i}.png", Label.ANOMALOUS if i % 5 == 0 else Label.NORMAL) for i in range(50)
)  # a fifth is anomalous
CANDIDATE = JudgedStream(
    "new", "original", {p.image_id: Judgement(float(p.label is Label.ANOMALOUS), 0.5, 1.0) for p in PARTS}
)
LEGACY = JudgedStream(
    "old", "original", {p.image_id: Judgement(float(i % 10 == 0), 0.5, 1.0) for i, p in enumerate(PARTS)}
)


def standing(phase: Phase, share: float = 0.0) -> ClassState:
    return ClassState("bolt", 1, phase, MORNING, "old", "new", share)


def test_a_day_played_twice_is_the_same_day(params: Params) -> None:
    days = [day_of_pairs(standing(Phase.SHADOW), PARTS, CANDIDATE, LEGACY, MORNING, params.demo) for _ in range(2)]
    assert days[0] == days[1]
    assert len({pair.key for pair in days[0]}) == params.demo.images_per_day


def test_another_day_draws_other_images(params: Params) -> None:
    first, second = (
        day_of_pairs(standing(Phase.SHADOW), PARTS, CANDIDATE, LEGACY, MORNING + timedelta(days=n), params.demo)
        for n in (0, 1)
    )
    assert [pair.image_id for pair in first] != [pair.image_id for pair in second]


def test_no_part_comes_again_before_all_of_its_kind_have_come(params: Params) -> None:
    demo = params.demo.model_copy(update={"images_per_day": 10, "anomaly_share": 0.2})
    days = [MORNING + timedelta(days=n) for n in range(5)]
    drawn = [pair for day in days for pair in day_of_pairs(standing(Phase.SHADOW), PARTS, CANDIDATE, LEGACY, day, demo)]
    bad = {part.image_id for part in PARTS if part.label is Label.ANOMALOUS}
    assert sorted(pair.image_id for pair in drawn if pair.image_id in bad) == sorted(bad)  # two a day, ten in all
    assert len({pair.image_id for pair in drawn}) == len(drawn)


@pytest.mark.parametrize("phase", [Phase.LEGACY, Phase.ROLLED_BACK])
def test_where_only_the_legacy_model_judges_there_are_no_pairs(params: Params, phase: Phase) -> None:
    assert day_of_pairs(standing(phase), PARTS, CANDIDATE, LEGACY, MORNING, params.demo) == []


def test_a_legacy_model_that_is_off_says_nothing(params: Params) -> None:
    pairs = day_of_pairs(standing(Phase.LEGACY_OFF, 1.0), PARTS, CANDIDATE, LEGACY, MORNING, params.demo)
    assert {pair.legacy_said for pair in pairs} == {None}
    assert {pair.answered_by for pair in pairs} == {"candidate"}


def test_the_canary_answers_about_its_share(params: Params) -> None:
    demo = params.demo.model_copy(update={"images_per_day": 2_000})
    parts = tuple(replace(PARTS[0], image_id=f"{i:064x}", label=Label.NORMAL) for i in range(2_000))
    said = {part.image_id: Judgement(0.0, 0.5, 1.0) for part in parts}
    one, other = JudgedStream("new", "original", said), JudgedStream("old", "original", said)
    pairs = day_of_pairs(standing(Phase.CANARY, 0.3), parts, one, other, MORNING, demo)
    share = sum(pair.answered_by == "candidate" for pair in pairs) / len(pairs)
    assert 0.25 < share < 0.35  # five standard errors


def test_inspectors_see_every_disagreement(params: Params) -> None:
    demo = params.demo.model_copy(update={"images_per_day": 500, "anomaly_share": 0.3, "review_share": 0.0})
    pairs = day_of_pairs(standing(Phase.SHADOW), PARTS, CANDIDATE, LEGACY, MORNING, demo)
    disagreeing = [p for p in pairs if p.legacy_said and p.legacy_said.alarm != p.candidate_said.alarm]
    assert disagreeing
    assert reviewed(pairs, demo) == disagreeing
