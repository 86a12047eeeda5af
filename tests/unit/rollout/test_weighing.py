"""What the engine is told of a class: what measures its misses, and what they prove."""

from __future__ import annotations

from datetime import datetime

import pytest

from fixtures.evidence_rows import DAY, Part, day_of, evidence_of, part
from shadowline.core.params import Params
from shadowline.evaluation.evidence import ABSENT, ALARM, ANOMALOUS, NO_ALARM, NORMAL, start_of
from shadowline.rollout.phases import Phase
from shadowline.rollout.state import ClassState
from shadowline.rollout.weighing import weigh

DAYS = 10
QUIET = part(NO_ALARM, ABSENT, 30, labelled_after=None)
DRAWN = part(NO_ALARM, ABSENT, 1, NORMAL, drawn=1)
REFERENCE = part(NO_ALARM, ABSENT, 1, ANOMALOUS, reference=1)
UNREAD = part(NO_ALARM, ABSENT, 5, labelled_after=None, drawn=1)
CHOSEN = part(NO_ALARM, ABSENT, 5, NORMAL)  # an inspector picked it


def unmeasured_since(params: Params, *measures: tuple[int, Part]) -> datetime | None:
    """Ten production days without the legacy model, with these parts on some of them."""
    parts = [group for day in range(DAYS) for group in day_of(day, QUIET)]
    parts += [group for day, measure in measures for group in day_of(day, measure)]
    one = ClassState("bolt", 1, Phase.LEGACY_OFF, start_of(0), "old", "new", 1.0)
    evidence = evidence_of(parts, closed_until=DAYS * DAY)
    return weigh(one, evidence, (), params.shadow, params.rollout).unmeasured_since


def test_without_a_label_of_a_part_that_no_model_chose_it_is_since_the_phase_began(params: Params) -> None:
    assert unmeasured_since(params) == start_of(0)
    assert unmeasured_since(params, (9, UNREAD), (9, CHOSEN)) == start_of(0)


@pytest.mark.parametrize("measure", [DRAWN, REFERENCE])
def test_a_labelled_part_that_was_drawn_or_put_on_the_line_measures(params: Params, measure: Part) -> None:
    assert params.rollout.window_days == 7
    assert unmeasured_since(params, (1, measure)) == start_of(DAY + 1)
    assert unmeasured_since(params, (5, measure)) is None


FOUND = part(ALARM, ABSENT, 1, ANOMALOUS, reference=1)
FLAGGED = part(ALARM, ABSENT, 1, ANOMALOUS)  # because the model alarmed


def unproven(params: Params, *parts_of_a_day: Part, phase: Phase = Phase.LEGACY_OFF, off_from: int = 0) -> str:
    parts = [group for day in range(DAYS) for group in day_of(day, QUIET, *parts_of_a_day)]
    one = ClassState("bolt", 1, phase, start_of(off_from * DAY), "old", "new", 1.0)
    evidence = evidence_of(parts, closed_until=DAYS * DAY, answering_since=0)
    return weigh(one, evidence, (), params.shadow, params.rollout).unproven_misses


def test_found_defects_that_no_model_chose_prove_that_misses_have_not_become_more(params: Params) -> None:
    assert unproven(params, *[FOUND] * 4) == ""
    assert "of 30 known defects that no model chose 10 were missed" in unproven(params, FOUND, FOUND, REFERENCE)
    assert "not proven that at most 15% are; send parts of known label" in unproven(params)


def test_what_the_model_flagged_or_found_beside_the_legacy_model_proves_nothing(params: Params) -> None:
    assert unproven(params, *[FLAGGED] * 9).startswith("of 0 known defects")
    assert unproven(params, FOUND, FOUND, FOUND, off_from=DAYS - 1).startswith("of 3 known defects")


def test_only_a_legacy_model_that_is_off_waits_for_it(params: Params) -> None:
    assert unproven(params, phase=Phase.LEGACY_READ_ONLY) == unproven(params, phase=Phase.LEGACY_DELETED) == ""


def test_usual_is_what_was_missed_of_such_defects_before_if_there_were_enough(params: Params) -> None:
    """Half of the defects are missed by both models; an inspector who only looks at alarms knows of none of these."""
    found, shared = part(ALARM, ALARM, 1, ANOMALOUS), part(NO_ALARM, NO_ALARM, 1, ANOMALOUS)
    for reference in (1, 0):
        before = [{**found, "reference": reference}, *([{**shared, "reference": 1}] if reference else [])]
        parts = [group for day in range(12) for group in day_of(day, QUIET, *before)]
        parts += [group for day in range(12, 60) for group in day_of(day, QUIET, FOUND, REFERENCE)]
        evidence = evidence_of(parts, closed_until=60 * DAY, answering_since=12 * DAY)
        one = ClassState("bolt", 1, Phase.LEGACY_OFF, start_of(12 * DAY), "old", "new", 1.0)
        seen = weigh(one, evidence, (), params.shadow, params.rollout)
        assert (seen.unproven_misses == "") == bool(reference)
