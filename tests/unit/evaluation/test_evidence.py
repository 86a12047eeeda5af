"""Evidence: production days by the server's receipt, counts that labels change, and laws of both."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.effort import examples
from shadowline.evaluation.evidence import (
    ABSENT,
    ALARM,
    ANOMALOUS,
    DROPPED,
    FAILED,
    NO_ALARM,
    NORMAL,
    SLOT,
    UNLABELLED,
    Evidence,
    EvidenceTable,
    count_cells,
    counts_of,
    pick,
    slot_of,
    start_of,
)

DAY = 96  # slots
NAMES = ("slot", "received", "label", "candidate", "legacy", "count", "drawn", "reference", "review_share", "slow")
MONDAY = datetime(2026, 1, 5, 6, 0, tzinfo=UTC)

Row = tuple[Any, ...]


def image(received: int, candidate: int = NO_ALARM, legacy: int = NO_ALARM, count: int = 1, **more: Any) -> Row:
    raw = {"slot": received, "received": received, "label": UNLABELLED, "candidate": candidate, "legacy": legacy}
    return tuple({**dict.fromkeys(NAMES, 0), **raw, "count": count, **more}[name] for name in NAMES)


def relabel(row: Row, slot: int, before: int, after: int) -> list[Row]:
    """A word on the image: what was said before is taken back."""
    raw = dict(zip(NAMES, row, strict=True))
    taken = {**raw, "slot": slot, "label": before, "count": -raw["count"]}
    given_ = {**raw, "slot": slot, "label": after}
    return [tuple(taken[name] for name in NAMES), tuple(given_[name] for name in NAMES)]


def table_of(rows: Sequence[Row]) -> EvidenceTable:
    columns = np.asarray(rows, dtype=np.float64).reshape(-1, len(NAMES)).T
    return EvidenceTable.of(dict(zip(NAMES, columns, strict=True)))


def evidence_of(rows: Sequence[Row], closed_until: int = 10**7) -> Evidence:
    return Evidence(table_of(rows), closed_until)


slots = st.lists(st.integers(0, 20 * DAY), max_size=40)
decisions = st.tuples(st.sampled_from([NO_ALARM, ALARM, FAILED, DROPPED]), st.sampled_from([NO_ALARM, ALARM, ABSENT]))
images = st.lists(
    st.builds(
        lambda at, both, count, flags: image(at, *both, count, drawn=flags[0], reference=flags[1]),
        st.integers(0, 6 * DAY),
        decisions,
        st.integers(1, 4),
        st.tuples(st.booleans(), st.booleans()),
    ),
    max_size=30,
)


class TestSlots:
    @given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(tzinfo=UTC)))
    def test_a_moment_lies_in_its_slot(self, at: datetime) -> None:
        assert start_of(slot_of(at)) <= at < start_of(slot_of(at) + 1)

    @pytest.mark.parametrize("minutes", [0, 330, 345, 525, 630, 765, 840, -210, -570, -720])
    def test_every_time_zone_of_the_world_is_a_whole_number_of_slots(self, minutes: int) -> None:
        midnight = datetime(2026, 1, 5, tzinfo=timezone(timedelta(minutes=minutes)))
        assert start_of(slot_of(midnight)) == midnight


class TestProductionDays:
    @given(slots, st.integers(-4 * 365 * DAY, 4 * 365 * DAY))
    def test_moving_everything_by_any_number_of_slots_changes_nothing(self, received: list[int], shift: int) -> None:
        """No time zone, no midnight, no summer time and no weekday has a say in what a day is."""
        here = evidence_of([image(slot) for slot in received]).days
        there = evidence_of([image(slot + shift) for slot in received]).days
        assert [(day.first + shift, day.end + shift) for day in here] == [(day.first, day.end) for day in there]

    @given(slots)
    def test_each_begins_with_an_image_and_every_image_lies_in_one_of_them(self, received: list[int]) -> None:
        evidence = evidence_of([image(slot) for slot in received])
        days = evidence.days
        assert all(day.first in received and day.end == day.first + DAY for day in days)
        assert all(day.end <= other.first for day, other in pairwise(days))
        for number, slot in zip(evidence.day_of_row, received, strict=True):
            assert days[number].first <= slot < days[number].end

    @given(slots, st.integers(1, 4))
    def test_they_do_not_depend_on_the_order_or_the_number_of_images(self, received: list[int], count: int) -> None:
        once = evidence_of([image(slot) for slot in received]).days
        assert evidence_of([image(slot, count=count) for slot in reversed(received)]).days == once

    @given(slots, st.integers(0, 20 * DAY))
    def test_what_comes_later_never_changes_a_day_that_has_begun(self, received: list[int], until: int) -> None:
        days = evidence_of([image(slot) for slot in received]).days
        earlier = evidence_of([image(slot) for slot in received if slot < until]).days
        assert earlier == tuple(day for day in days if day.first < until)

    @pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Pacific/Chatham"])
    @pytest.mark.parametrize("month", [1, 3, 10])  # summer time begins and ends within the last two
    def test_a_line_with_one_shift_has_one_day_a_calendar_day(self, zone: str, month: int) -> None:
        """Six to two by the clock on the wall. An hour is lost or won with summer time, never a day."""
        shifts = [datetime(2026, month, day, 6, 0, tzinfo=ZoneInfo(zone)) for day in range(15, 32)]
        received = [slot_of(shift.astimezone(UTC)) + quarter for shift in shifts for quarter in range(32)]
        evidence = evidence_of([image(slot) for slot in received])
        assert len(evidence.days) == evidence.num_days(start_of(min(received)), 16) == 17

    def test_nights_weekends_and_holidays_are_none(self) -> None:
        monday = slot_of(MONDAY)
        received = [monday + day * DAY for day in (0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 30)]
        assert len(evidence_of([image(slot) for slot in received]).days) == 11

    def test_a_line_that_never_stops_has_one_every_24_hours(self) -> None:
        days = evidence_of([image(slot) for slot in range(50, 50 + 10 * DAY)]).days
        assert [day.first for day in days] == [50 + number * DAY for number in range(10)]

    def test_reference_parts_do_not_begin_one(self) -> None:
        rows = [image(0, reference=1), image(500), image(900, reference=1)]
        evidence = evidence_of(rows)
        assert [day.first for day in evidence.days] == [500]
        assert evidence.day_of_row.tolist() == [0, 0, 0]
        assert evidence.last_received == start_of(501)

    def test_of_no_images_there_are_none(self) -> None:
        evidence = Evidence(EvidenceTable.empty(), 0)
        assert (evidence.days, evidence.last_received, evidence.longest_pause) == ((), None, timedelta(0))
        assert evidence.num_days(MONDAY, 1) == 0

    def test_the_longest_pause_is_between_two_images_of_the_production(self) -> None:
        evidence = evidence_of([image(0), image(4), image(100, reference=1), image(300), image(310)])
        assert evidence.longest_pause == 296 * SLOT


class TestCountedDays:
    def test_a_day_counts_from_its_end_on(self) -> None:
        rows = [image(10, count=20)]
        assert [evidence_of(rows, until).num_days(start_of(0), 10) for until in (11, 10 + DAY - 1, 10 + DAY)] == [
            0,
            0,
            1,
        ]

    def test_a_day_with_few_images_is_none_but_has_its_24_hours(self) -> None:
        rows = [image(0, count=20), image(DAY, count=9), image(DAY + 50, count=20), image(2 * DAY, count=20)]
        assert evidence_of(rows[:2]).num_days(start_of(0), 10) == 1
        assert evidence_of(rows).num_days(start_of(0), 10) == 3

    def test_only_images_after_the_beginning_of_the_phase_count(self) -> None:
        rows = [image(0, count=20), image(50, count=9), image(DAY, count=20)]
        assert [evidence_of(rows).num_days(start_of(since), n) for since, n in ((0, 10), (1, 10), (1, 9))] == [2, 1, 2]

    def test_a_phase_that_begins_within_a_quarter_of_an_hour_does_not_count_the_images_before_it(self) -> None:
        """The slot in which it begins holds images of both sides; it counts for neither."""
        rows = [image(0, count=20), image(1, count=20)]
        assert evidence_of(rows).num_days(start_of(0) + timedelta(minutes=14), 21) == 0
        assert evidence_of(rows).num_days(start_of(1) + timedelta(minutes=1), 1) == 0

    @pytest.mark.parametrize(
        ("candidate", "legacy", "judged", "both"),
        [
            (ALARM, NO_ALARM, 1, 1),
            (NO_ALARM, ABSENT, 1, 0),
            (FAILED, NO_ALARM, 0, 0),
            (DROPPED, ALARM, 0, 0),
        ],
    )
    def test_only_what_the_candidate_judged_counts(self, candidate: int, legacy: int, judged: int, both: int) -> None:
        evidence = evidence_of([image(0, candidate, legacy, 20)])
        assert evidence.num_days(start_of(0), 10) == judged
        assert evidence.num_days(start_of(0), 10, both=True) == both

    def test_reference_parts_fill_none(self) -> None:
        rows = [image(0, count=5), image(1, count=100, reference=1)]
        assert evidence_of(rows).num_days(start_of(0), 10) == 0

    @given(images, st.integers(0, 3 * DAY))
    def test_a_label_never_changes_their_number(self, rows: list[Row], delay: int) -> None:
        labels = [new for row in rows for new in relabel(row, row[0] + delay, UNLABELLED, ANOMALOUS)]
        for both in (False, True):
            numbers = [evidence_of(every).num_days(start_of(0), 3, both=both) for every in (rows, rows + labels)]
            assert numbers[0] == numbers[1]

    @given(images, st.integers(0, 7 * DAY), st.integers(0, 7 * DAY), st.integers(1, 6))
    def test_waiting_never_lowers_their_number_and_a_later_beginning_never_raises_it(
        self, rows: list[Row], since: int, until: int, least: int
    ) -> None:
        number = evidence_of(rows, until).num_days(start_of(since), least)
        assert evidence_of(rows, until + 1).num_days(start_of(since), least) >= number
        assert evidence_of(rows, until).num_days(start_of(since + 1), least) <= number


class TestLabels:
    def test_a_label_moves_an_image_from_one_cell_to_another_when_it_comes(self) -> None:
        row = image(5, ALARM, NO_ALARM)
        rows = [row, *relabel(row, 80, UNLABELLED, ANOMALOUS), *relabel(row, 90, ANOMALOUS, NORMAL)]
        evidence = evidence_of(rows)
        for slot, label in ((6, UNLABELLED), (80, UNLABELLED), (81, ANOMALOUS), (90, ANOMALOUS), (91, NORMAL)):
            cells = count_cells(evidence.known_at(slot))
            assert cells.sum() == 1 and cells[label, ALARM, NO_ALARM] == 1
        assert count_cells(evidence.known_at(5)).sum() == 0

    def test_what_is_known_can_be_asked_of_older_images_alone(self) -> None:
        rows = [image(5), image(6), image(9)]
        assert evidence_of(rows).known_at(9, received_before=6).count.sum() == 1

    @given(images, st.integers(0, 50), st.sampled_from([UNLABELLED, NORMAL, ANOMALOUS]))
    def test_saying_the_same_word_again_changes_nothing(self, rows: list[Row], delay: int, word: int) -> None:
        said = [new for row in rows for new in relabel(row, row[0] + 3, UNLABELLED, word)]
        again = [new for row in rows for new in relabel(row, row[0] + 3 + delay, word, word)]
        assert _same(evidence_of(rows + said), evidence_of(rows + said + again))

    @given(images, st.randoms(use_true_random=False))
    def test_splitting_and_shuffling_rows_changes_nothing(self, rows: list[Row], random: Any) -> None:
        said = rows + [new for row in rows for new in relabel(row, row[0] + 7, UNLABELLED, NORMAL)]
        at = NAMES.index("count")
        split = [(*row[:at], int(np.sign(row[at])), *row[at + 1 :]) for row in said for _ in range(abs(int(row[at])))]
        assert _same(evidence_of(said), evidence_of(random.sample(split, len(split))))

    @given(images, st.integers(0, 7 * DAY))
    @settings(max_examples=examples(50))
    def test_no_cell_is_ever_negative(self, rows: list[Row], slot: int) -> None:
        said = rows + [new for row in rows for new in relabel(row, row[0] + 7, UNLABELLED, NORMAL)]
        assert (count_cells(evidence_of(said).known_at(slot)) >= 0).all()


def _same(one: Evidence, other: Evidence) -> bool:
    """In days, and in all cells at all times."""
    times = sorted({*one.table.slot.tolist(), *other.table.slot.tolist()})
    cells = all((count_cells(one.known_at(at + 1)) == count_cells(other.known_at(at + 1))).all() for at in times)
    return one.days == other.days and cells


class TestCounts:
    def test_only_parts_of_the_production_that_both_judged_are_in_cells(self) -> None:
        rows = [
            image(0, ALARM, NO_ALARM, 2),
            image(0, ALARM, NO_ALARM, 3, reference=1),
            image(0, FAILED, ALARM, 5),
            image(0, DROPPED, ALARM, 7),
            image(0, ALARM, ABSENT, 11),
        ]
        cells = count_cells(table_of(rows))
        assert cells.sum() == cells[UNLABELLED, ALARM, NO_ALARM] == 2

    def test_a_question_sees_the_rows_that_it_asks(self) -> None:
        rows = [image(0, ALARM), image(DAY, NO_ALARM), image(DAY + 1, FAILED)]
        table = evidence_of(rows).changes(lambda table: np.where(table.judged, table.candidate, -1))
        assert (table.moment.tolist(), table.day.tolist(), table.value.tolist()) == ([0, DAY], [0, 1], [1, 0])

    def test_values_are_counted_with_their_numbers(self) -> None:
        counts = counts_of(np.array([0, 2, -1, 2]), np.array([5, 7, 100, -3]), 4)
        assert counts.tolist() == [5, 0, 4, 0]

    def test_the_first_condition_that_holds_decides(self) -> None:
        yes, no = np.array([True, False, False]), np.array([True, True, False])
        assert pick([yes, no], [7, 8], 3).tolist() == [7, 8, -1]
        assert pick([yes[:0], no[:0]], [7, 8], 0).tolist() == []
