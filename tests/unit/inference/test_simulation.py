"""The plant in fast motion: a day is the same however often it is played, and shows what the phase allows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shadowline.core.params import Params
from shadowline.data.labels import Label
from shadowline.inference.simulation import Calendar, SampledImage, StreamScores, day_of_pairs, parts_of_day, reviewed
from shadowline.records.pair import ModelDecision, Pair, PairSource
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState

MORNING = datetime(2026, 1, 5, 6, tzinfo=UTC)  # a Monday
PARTS = tuple(
    SampledImage(f"{i:064x}", f"{i}.png", "original", Label.ANOMALOUS if i % 5 == 0 else Label.NORMAL)
    for i in range(50)
)  # a fifth is anomalous
CANDIDATE = StreamScores(
    "new", "original", {p.image_id: ModelDecision(float(p.label is Label.ANOMALOUS), 0.5, 1.0) for p in PARTS}
)
LEGACY = StreamScores(
    "old", "original", {p.image_id: ModelDecision(float(i % 10 == 0), 0.5, 1.0) for i, p in enumerate(PARTS)}
)


def standing(phase: Phase, share: float = 0.0) -> ClassState:
    return ClassState("bolt", 1, phase, MORNING, "old", "new", share)


def pairs_of(one: ClassState, params: Params, day: int = 0) -> list[Pair]:
    parts = parts_of_day("bolt", PARTS, day, params.demo)
    return day_of_pairs(one, parts, CANDIDATE, LEGACY, MORNING + timedelta(days=day), params)


def test_a_day_played_twice_is_the_same_day(params: Params) -> None:
    days = [pairs_of(standing(Phase.SHADOW), params) for _ in range(2)]
    assert days[0] == days[1]
    assert len({pair.key for pair in days[0]}) == params.demo.images_per_day + params.demo.references_per_day


def test_another_day_has_other_parts(params: Params) -> None:
    first, second = (pairs_of(standing(Phase.SHADOW), params, day) for day in (0, 1))
    assert not {pair.image_id for pair in first} & {pair.image_id for pair in second}


def test_no_part_comes_again_before_all_of_its_kind_have_come(params: Params) -> None:
    demo = params.demo.model_copy(update={"images_per_day": 10, "anomaly_share": 0.2, "references_per_day": 0})
    drawn = [part for day in range(5) for part in parts_of_day("bolt", PARTS, day, demo)]
    bad = {part.image_id for part in PARTS if part.label is Label.ANOMALOUS}
    assert sorted(part.image_id for part in drawn if part.image_id in bad) == sorted(bad)  # two a day, ten in all
    assert len({part.image_id for part in drawn}) == len(drawn)


def test_parts_come_in_two_lots_and_are_received_when_they_are_seen(params: Params) -> None:
    times = [pair.received_at for pair in pairs_of(standing(Phase.SHADOW), params)]
    assert times == [pair.captured_at for pair in pairs_of(standing(Phase.SHADOW), params)]
    hours = [(at - MORNING) / timedelta(hours=1) for at in times if at is not None]
    assert sorted(hours) == hours and sum(hour >= 8 for hour in hours) == params.demo.images_per_day // 2


@pytest.mark.parametrize("phase", [Phase.LEGACY, Phase.ROLLED_BACK])
def test_where_only_the_legacy_model_judges_there_are_no_pairs(params: Params, phase: Phase) -> None:
    assert pairs_of(standing(phase), params) == []


def test_a_legacy_model_that_is_off_says_nothing(params: Params) -> None:
    pairs = pairs_of(standing(Phase.LEGACY_OFF, 1.0), params)
    assert {pair.legacy_said for pair in pairs} == {None}
    assert {pair.answered_by for pair in pairs} == {"candidate"}


def test_the_canary_answers_about_its_share(params: Params) -> None:
    parts = tuple(replace(PARTS[0], image_id=f"{i:064x}", label=Label.NORMAL) for i in range(2_000))
    said = {part.image_id: ModelDecision(0.0, 0.5, 1.0) for part in parts}
    one, other = StreamScores("new", "original", said), StreamScores("old", "original", said)
    pairs = day_of_pairs(standing(Phase.CANARY, 0.3), parts, one, other, MORNING, params)
    share = sum(pair.answered_by == "candidate" for pair in pairs) / len(pairs)
    assert 0.25 < share < 0.35  # five standard errors


def test_inspectors_label_every_disagreement_and_every_alarm_in_the_end(params: Params) -> None:
    quiet = params.model_copy(update={"shadow": params.shadow.model_copy(update={"review_share": 0.0})})
    parts = [part for day in range(4) for part in parts_of_day("bolt", PARTS, day, params.demo)]
    pairs = day_of_pairs(standing(Phase.SHADOW), parts, CANDIDATE, LEGACY, MORNING, quiet)
    produced = [pair for pair in pairs if pair.source is PairSource.LINE]
    flagged = [p for p in produced if p.legacy_said and (p.legacy_said.alarm or p.candidate_said.alarm)]
    assert flagged and reviewed(pairs, 1.0) == flagged
    assert reviewed(pairs, 0.0) == []


def test_what_was_drawn_is_labelled_although_both_models_are_quiet(params: Params) -> None:
    every = params.model_copy(update={"shadow": params.shadow.model_copy(update={"review_share": 1.0})})
    pairs = day_of_pairs(standing(Phase.SHADOW), PARTS, CANDIDATE, LEGACY, MORNING, every)
    assert all(pair.review_drawn and pair.review_share == 1.0 for pair in pairs)
    assert reviewed(pairs, 1.0) == pairs


def test_known_defects_come_besides_and_wait_for_no_inspector(params: Params) -> None:
    demo = params.demo.model_copy(update={"references_per_day": 2})
    parts = [part for day in range(3) for part in parts_of_day("bolt", PARTS, day, demo)]
    pairs = day_of_pairs(standing(Phase.LEGACY_OFF, 1.0), parts, CANDIDATE, LEGACY, MORNING, params)
    known = [pair for pair in pairs if pair.source is PairSource.REFERENCE]
    assert len({pair.image_id for pair in known}) == len(known) == 6
    assert {pair.known_label for pair in known} == {Label.ANOMALOUS}
    assert not any(pair.review_drawn for pair in known)
    assert not {pair.key for pair in reviewed(pairs, 1.0)} & {pair.key for pair in known}


class TestTheCalendar:
    calendar = Calendar(MORNING, (7, 8))

    def test_the_line_stands_still_on_weekends_and_in_the_holiday(self) -> None:
        runs = [self.calendar.runs(MORNING + timedelta(days=day)) for day in range(14)]
        assert runs == [True] * 5 + [False] * 2 + [False] * 2 + [True] * 3 + [False] * 2

    def test_days_are_counted_from_the_first_whole_one(self) -> None:
        since = MORNING + timedelta(minutes=5)
        counted = [self.calendar.num_days(since, MORNING + timedelta(days=day)) for day in range(1, 11)]
        assert counted == [0, 1, 2, 3, 4, 4, 4, 4, 4, 5]
