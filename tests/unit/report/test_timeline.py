"""The timeline of a migration: read from real records, written, read back, and drawn."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from fixtures.learning import ROOT, project_params
from fixtures.migration import Teller, pair_of, tell
from fixtures.report import write_inputs
from shadowline.core.layout import Layout
from shadowline.core.params import Params
from shadowline.data.labels import Label
from shadowline.records.stores import Records, open_records
from shadowline.records.timeline import ClassTimeline, Timeline, collect_timeline, read_timeline, write_timeline
from shadowline.report import build_report
from shadowline.report.migration import MEANING, gantt, lead, migration_section
from shadowline.rollout.observation import Order, OrderKind
from shadowline.rollout.phases import Phase


def open_new(folder: Path) -> Records:
    return open_records(f"sqlite:///{folder / 'records.db'}")


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return open_new(tmp_path)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Read only: the whole migration, once."""
    records = open_new(tmp_path_factory.mktemp("told"))
    tell(records, project_params())
    return records


@pytest.fixture(scope="module")
def timeline(told: Records) -> Timeline:
    return collect_timeline(told, project_params())


def class_of(timeline: Timeline, name: str) -> ClassTimeline:
    return next(cls for cls in timeline.classes if cls.name == name)


# --- bands, trips, moves


def test_the_bands_of_a_class_tell_its_story_without_gaps(timeline: Timeline) -> None:
    nut = class_of(timeline, "nut")
    expected = """legacy 0  shadow 0  canary 0.1  rolled_back 0  shadow 0  canary 0.1  canary 0.5
                  live 1  legacy_read_only 1  legacy_off 1  legacy_deleted 1"""
    assert [f"{band.phase} {band.share:g}" for band in nut.bands] == re.split(r"\s{2,}", expected)
    assert (nut.bands[0].start, nut.bands[-1].end) == (timeline.start, timeline.end)
    assert all(left.end == right.start for left, right in pairwise(nut.bands))
    assert {band.candidate for band in nut.bands[:4]} == {"v1-nut"}
    assert {band.candidate for band in nut.bands[4:]} == {"v2-nut"}


def test_a_failed_soft_check_ends_no_band(timeline: Timeline) -> None:
    assert [trip.class_name for trip in timeline.trips if not trip.rolled_back] == ["bolt"]
    phases = [band.phase for band in class_of(timeline, "bolt").bands]
    assert phases.count(Phase.LEGACY_READ_ONLY) == 1


def test_a_held_band_knows_what_it_interrupts(timeline: Timeline) -> None:
    (held,) = [band for band in class_of(timeline, "gear").bands if band.phase is Phase.HELD]
    assert (held.held_from, held.standing, held.share) == (Phase.LIVE, Phase.LIVE, 1.0)
    assert held.end - held.start == timedelta(days=7)


def test_classes_stand_in_the_order_of_their_waves(timeline: Timeline) -> None:
    assert [(cls.wave, cls.name) for cls in timeline.classes] == [(1, "bolt"), (1, "nut"), (2, "gear")]


def test_a_rollback_has_its_time_its_place_and_its_reason(timeline: Timeline, told: Records) -> None:
    (trip,) = timeline.rollbacks
    event = next(event for event in told.rollout.events("nut") if event.after.phase is Phase.ROLLED_BACK)
    assert (trip.at, trip.by, trip.reason) == (event.at, "engine", event.after.reason)
    assert (trip.class_name, trip.phase, trip.share) == ("nut", Phase.CANARY, 0.1)
    assert trip.reason.startswith("drift")


def test_moves_are_changes_of_phase_or_share_and_nothing_else(timeline: Timeline, told: Records) -> None:
    events = [event for event in told.rollout.events() if event.source]
    assert len(timeline.moves) == len(events) - 1  # one event only notes an alarm
    rises = [move for move in timeline.moves if move.source is move.target]
    assert {(move.source_share, move.target_share) for move in rises} == {(0.1, 0.5)}
    assert [move.at for move in timeline.moves] == sorted(move.at for move in timeline.moves)
    assert [move.by for move in timeline.moves if move.target is Phase.HELD] == ["Ada"]
    assert timeline.num_ticks == len({event.at for event in events})


def test_an_open_end_reaches_to_the_last_event_or_the_last_pair(records: Records, params: Params) -> None:
    teller = Teller(records, params)
    teller.day()
    assert collect_timeline(records, params).end == teller.factory.now
    late = teller.factory.now + timedelta(hours=7)
    records.pairs.record([pair_of(teller.factory.state.of("bolt"), "late", late, False, False)])
    found = collect_timeline(records, params)
    assert found.end == late
    assert {cls.bands[-1].end for cls in found.classes} == {late}


def test_without_a_rollout_there_is_no_timeline(records: Records, params: Params) -> None:
    with pytest.raises(ValueError, match="0 rollout events on record, need at least 1; begin with"):
        collect_timeline(records, params)


# --- agreement


def test_every_pair_is_in_a_window_or_counted_as_not_drawn(records: Records, params: Params) -> None:
    teller = Teller(records, params)
    for _ in range(20):
        teller.day()
    records.pairs.record(teller.pairs)
    assert collect_timeline(records, params).num_undrawn == 0
    bolt = teller.factory.state.of("bolt")
    old = pair_of(bolt, "old", teller.factory.now - timedelta(days=400), False, False)
    foreign = pair_of(replace(bolt, candidate="never rolled out"), "foreign", teller.factory.now, False, False)
    records.pairs.record([old, foreign])
    found = collect_timeline(records, params)
    assert found.num_undrawn == 2
    assert sum(w.settled.num_total for cls in found.classes for w in cls.windows) == len(teller.pairs)
    assert "2 pairs not drawn" in migration_section(found).undrawn


def test_a_window_holds_what_the_store_counts_for_the_models_of_that_time(timeline: Timeline, told: Records) -> None:
    nut = class_of(timeline, "nut")
    rolled_back = timeline.rollbacks[0].at
    for window in nut.windows:
        candidate = "v1-nut" if window.end <= rolled_back else "v2-nut"
        counts = told.pairs.counts("nut", candidate, "legacy-nut", window.start, window.end)
        assert (window.settled.num_hits, window.settled.num_total) == (counts.num_settled, counts.num_pairs)
        assert window.settled.low < window.settled.value <= window.settled.high or window.settled.value == 1.0
        assert not window.start < rolled_back < window.end
    last_of_first = [window for window in nut.windows if window.end == rolled_back]
    assert last_of_first and last_of_first[0].settled.value < min(
        w.settled.value for w in class_of(timeline, "bolt").windows
    )


def test_no_agreement_is_drawn_where_only_one_model_judges(timeline: Timeline) -> None:
    for cls in timeline.classes:
        off = next(band.start for band in cls.bands if band.phase is Phase.LEGACY_OFF)
        assert max(window.end for window in cls.windows) <= off


def test_a_label_that_proves_the_candidate_right_raises_settled_agreement(records: Records, params: Params) -> None:
    teller = Teller(records, params)
    teller.day()
    one = teller.factory.state.of("bolt")
    pair = pair_of(one, "image", teller.factory.now + timedelta(hours=1), True, False)
    records.pairs.record([pair])
    assert class_of(collect_timeline(records, params), "bolt").windows[0].settled.value == 0.0
    records.pairs.label("bolt", "image", Label.ANOMALOUS, "Ada", pair.captured_at)
    assert class_of(collect_timeline(records, params), "bolt").windows[0].settled.value == 1.0


@pytest.mark.parametrize("days", [3.0, 14.0])
def test_windows_are_as_long_as_those_of_the_guards(told: Records, params: Params, days: float) -> None:
    rollout = params.rollout.model_copy(update={"window_days": days})
    found = collect_timeline(told, params.model_copy(update={"rollout": rollout}))
    spans = {window.end - window.start for cls in found.classes for window in cls.windows}
    assert max(spans) == timedelta(days=days)


# --- the file


def test_what_is_written_is_read_back(timeline: Timeline, tmp_path: Path) -> None:
    path = Layout(tmp_path).timeline
    write_timeline(timeline, path)
    assert path == tmp_path / "data/report/timeline.json"
    assert read_timeline(path) == timeline


def test_no_file_is_no_timeline_and_a_broken_one_names_its_field(timeline: Timeline, tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    assert read_timeline(path) is None
    write_timeline(timeline, path)
    raw = json.loads(path.read_text())
    raw["classes"][0]["bands"][0]["phase"] = "somewhere"
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"timeline\.json: classes\.0\.bands\.0\.phase: .*shadowline rollout timeline"):
        read_timeline(path)


# --- the section


def test_every_phase_has_a_name_a_meaning_and_a_colour() -> None:
    css = (ROOT / "shadowline/report/report.css").read_text(encoding="utf-8")
    assert set(MEANING) == set(Phase)
    assert not [phase for phase in Phase if f".p-{phase}" not in css]


def test_the_picture_is_as_wide_as_the_time_and_filled_as_high_as_the_share(timeline: Timeline) -> None:
    picture = str(gantt(timeline))
    bands = re.findall(r'<g class="phase p-(\w+)"><title>([^<]*)</title>(.*?)</g>', picture)
    heights = {
        (phase, title.partition(":")[0]): re.findall(r'class="fill"[^>]* height="([\d.]+)"', inside)
        for phase, title, inside in bands
    }
    assert heights[("canary", "canary 10\u202f%")] == ["2.4"]
    assert heights[("canary", "canary 50\u202f%")] == ["12.0"]
    assert heights[("live", "live")] == ["24.0"]
    assert heights[("shadow", "shadow")] == []
    widths = [float(w) for _, _, inside in bands[:8] for w in re.findall(r'class="pale"[^>]*width="([\d.]+)"', inside)]
    assert sum(widths) == pytest.approx(820, abs=2)  # bolt, from the first day to the last


def test_a_rollback_is_numbered_in_the_picture_as_in_the_notes(timeline: Timeline) -> None:
    section = migration_section(timeline)
    assert re.findall(r'<g class="trip"><title>([^:<]*)', section.chart) == ["6 Feb 2026, 06"]
    (note,) = section.notes
    assert (note.number, note.where) == (1, "nut went back from canary 10\u202f%")
    assert note.in_words.startswith("The new model stopped parts more or less often")
    assert [figure.title for figure in section.agreement if "rollback 1" in figure.svg] == ["nut"]


def test_a_persons_rollback_is_called_one(records: Records, params: Params) -> None:
    teller = Teller(records, params)
    teller.day()
    teller.day(Order(OrderKind.ROLL_BACK, ("bolt",), "Ada", "drift: complaint 4711"))
    (note,) = migration_section(collect_timeline(records, params)).notes
    assert note.in_words == "A person took it back."
    assert "complaint 4711" in note.reason


def test_the_lead_says_how_far_the_migration_is(timeline: Timeline, records: Records, params: Params) -> None:
    assert lead(timeline).startswith("The migration is complete after 196 days")
    assert "nut came back with a new candidate" in lead(timeline)
    teller = Teller(records, params)
    teller.day()
    assert lead(collect_timeline(records, params)) == (
        "The new model has taken over 0 of 3 classes after 1 day. No class had to be rolled back."
    )
    teller.day(Order(OrderKind.ROLL_BACK, ("bolt", "nut"), "Ada", "no"))
    assert "There were 2 rollbacks; bolt and nut still wait for one." in lead(collect_timeline(records, params))


def test_a_rollout_that_was_only_planned_is_drawn(records: Records, params: Params) -> None:
    Teller(records, params)
    section = migration_section(collect_timeline(records, params))
    assert section.moves == section.notes == section.agreement == ()
    assert section.without_pairs == ("bolt", "nut", "gear")
    assert "nan" not in section.chart


def test_years_have_few_ticks_and_days_have_some(timeline: Timeline) -> None:
    for days in (0.1, 5, 60, 400, 3000):
        stretched = replace(timeline, end=timeline.start + timedelta(days=days), classes=(), trips=())
        assert 1 <= len(re.findall(r">(?:week|day) \d+<", gantt(stretched))) <= 13


def test_the_report_shows_the_migration_or_says_that_there_is_none(
    timeline: Timeline, tmp_path: Path, params: Params
) -> None:
    layout = write_inputs(tmp_path, hardness={"bolt": 5.0}, defects={"bolt": ("scratch",)})
    sentence = "No migration is drawn"
    assert sentence in build_report(layout, params).read_text(encoding="utf-8")
    write_timeline(timeline, layout.timeline)
    page = build_report(layout, params).read_text(encoding="utf-8")
    assert sentence not in page
    assert page.count('<tr><td class="nowrap">') == len(timeline.moves)


def test_what_people_say_is_text_and_never_markup(records: Records, params: Params, tmp_path: Path) -> None:
    teller = Teller(records, params)
    teller.day()
    why = "</title></svg><script>alert(1)</script>"
    teller.day(Order(OrderKind.ROLL_BACK, ("bolt",), "<b>Ada", why))
    layout = write_inputs(tmp_path, hardness={"bolt": 5.0}, defects={"bolt": ("scratch",)})
    write_timeline(collect_timeline(records, params), layout.timeline)
    page = build_report(layout, params).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>Ada" not in page
    assert "&lt;script&gt;alert(1)" in page
