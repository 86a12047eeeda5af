"""What the engine is told of a class: since when nothing has measured its misses."""

from __future__ import annotations

from datetime import datetime

import pytest
from evidence_rows import DAY, Part, day_of, evidence_of, part

from shadowline.evidence import ABSENT, ANOMALOUS, NO_ALARM, NORMAL, start_of
from shadowline.params import Params
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
    parts = [one for day in range(DAYS) for one in day_of(day, QUIET)]
    parts += [one for day, measure in measures for one in day_of(day, measure)]
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
