"""The timeline of a migration, read from the records: what `timeline.json` holds and the report draws.

    timeline = collect_timeline(open_records(), params)
    write_timeline(timeline, layout.timeline)

Nothing in it is decided anew: bands, trips and moves are the rollout's events, agreement is counted from the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import func, select

from shadowline.core.atomic_files import write_json
from shadowline.core.params import Params
from shadowline.evaluation.agreement import Rate
from shadowline.records.database import reading
from shadowline.records.pair import REDECIDED
from shadowline.records.stores import Records
from shadowline.records.tables import PairRow
from shadowline.rollout.phases import BOTH_JUDGE, TAKEN_OVER, Phase
from shadowline.rollout.state import Event


@dataclass(frozen=True)
class Band:
    """A span of time in which a class stood in one phase, with one share and the same two models."""

    phase: Phase
    held_from: Phase | None  # the phase that HELD interrupts
    start: datetime
    end: datetime
    share: float  # of the images that the candidate answers, 0…1
    candidate: str  # fingerprint
    legacy: str  # fingerprint

    @property
    def standing(self) -> Phase:
        """The phase that decides traffic: the interrupted one while held."""
        return self.held_from or self.phase


@dataclass(frozen=True)
class Window:
    """Settled agreement of the pairs received after `start` and not after `end`, of the two models of that time."""

    start: datetime
    end: datetime
    settled: Rate


@dataclass(frozen=True)
class GuardTrip:
    """A rollback, or an alarm that took nothing back."""

    at: datetime
    class_name: str
    phase: Phase  # where the class stood
    share: float  # likewise
    rolled_back: bool
    by: str
    reason: str


@dataclass(frozen=True)
class Move:
    """A change of phase or of the canary's share."""

    at: datetime
    class_name: str
    source: Phase
    source_share: float
    target: Phase
    target_share: float
    by: str
    reason: str


@dataclass(frozen=True)
class ClassTimeline:
    name: str
    wave: int
    bands: tuple[Band, ...]  # without gaps, from the start of the rollout to the end of the timeline
    windows: tuple[Window, ...]  # those with pairs

    @property
    def taken_over(self) -> bool:
        return self.bands[-1].standing in TAKEN_OVER


@dataclass(frozen=True)
class Timeline:
    start: datetime  # first event
    end: datetime  # last event or last pair
    window_days: float
    min_agreement: float  # params.shadow, as are `confidence` and the intervals
    confidence: float
    num_ticks: int  # ticks that changed something; the others leave no trace
    num_undrawn: int  # pairs in no window: received earlier, or by models that were not active then
    classes: tuple[ClassTimeline, ...]  # by wave, then by name
    trips: tuple[GuardTrip, ...]  # by time
    moves: tuple[Move, ...]  # by time

    @property
    def days(self) -> float:
        return self.day(self.end)

    def day(self, at: datetime) -> float:
        """Days since the start."""
        return (at - self.start) / timedelta(days=1)

    @property
    def rollbacks(self) -> tuple[GuardTrip, ...]:
        return tuple(trip for trip in self.trips if trip.rolled_back)


def collect_timeline(records: Records, params: Params) -> Timeline:
    """Everything from the planning to the last event or pair, in windows of `rollout.window_days`.

    Raises ValueError where no rollout is on record.
    """
    events = records.rollout.events()
    if not events:
        raise ValueError("timeline: 0 rollout events on record, need at least 1; begin with `shadowline rollout plan`")
    histories = _by_class(events)
    end = max(events[-1].at, _last_receipt(records, histories) or events[-1].at)
    classes = tuple(_class_timeline(history, end, records, params) for history in histories.values())
    drawn = sum(window.settled.num_total for cls in classes for window in cls.windows)
    return Timeline(
        start=events[0].at,
        end=end,
        window_days=params.rollout.window_days,
        min_agreement=params.shadow.min_agreement,
        confidence=params.shadow.confidence,
        num_ticks=len({event.at for event in events if event.source}),
        num_undrawn=_num_pairs(records, histories) - drawn,
        classes=tuple(sorted(classes, key=lambda cls: (cls.wave, cls.name))),
        trips=_by_time(trip for history in histories.values() for trip in _trips(history)),
        moves=_by_time(move for history in histories.values() for move in _moves(history)),
    )


def write_timeline(timeline: Timeline, path: Path) -> None:
    write_json(path, _AS_JSON.dump_python(timeline, mode="json"))


def read_timeline(path: Path) -> Timeline | None:
    """None for a missing file; ValueError for a file that `write_timeline` did not write."""
    if not path.is_file():
        return None
    try:
        return _AS_JSON.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {field}: {first['msg']}; run `shadowline rollout timeline` again") from None


_AS_JSON = TypeAdapter(Timeline)


def _by_class(events: Iterable[Event]) -> dict[str, list[Event]]:
    histories: dict[str, list[Event]] = {}
    for event in events:
        histories.setdefault(event.after.class_name, []).append(event)
    return histories


Timed = TypeVar("Timed", GuardTrip, Move)


def _by_time(entries: Iterable[Timed]) -> tuple[Timed, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.at, entry.class_name)))


def _class_timeline(history: Sequence[Event], end: datetime, records: Records, params: Params) -> ClassTimeline:
    last, bands = history[-1].after, tuple(_bands(history, end))
    windows = tuple(_windows(last.class_name, bands, records, params))
    return ClassTimeline(last.class_name, last.wave, bands, windows)


def _bands(history: Sequence[Event], end: datetime) -> Iterator[Band]:
    """One band per phase, share and pair of models; what else an event changes does not end a band."""

    def kind(event: Event) -> tuple[object, ...]:
        state = event.after
        return state.phase, state.held_from, state.share, state.candidate, state.legacy

    firsts = [next(group) for _, group in groupby(history, key=kind)]
    for event, until in zip(firsts, [*(first.at for first in firsts[1:]), end], strict=True):
        state = event.after
        yield Band(state.phase, state.held_from, event.at, until, state.share, state.candidate, state.legacy)


def _windows(class_name: str, bands: Iterable[Band], records: Records, params: Params) -> Iterator[Window]:
    """Per pair of models, from where both began to judge; the last window of each may be shorter."""
    judging = [band for band in bands if band.standing in BOTH_JUDGE]
    for models, group in groupby(judging, key=lambda band: (band.candidate, band.legacy)):
        run = list(group)
        for start, end in _spans(run[0].start, run[-1].end, timedelta(days=params.rollout.window_days)):
            counts = records.pairs.counts(class_name, *models, since=start, until=end)
            if counts.num_pairs:
                yield Window(start, end, Rate.of(counts.num_settled, counts.num_pairs, params.shadow.confidence))


def _spans(start: datetime, end: datetime, length: timedelta) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        yield start, min(start + length, end)
        start += length


def _trips(history: Sequence[Event]) -> Iterator[GuardTrip]:
    for before, event in pairwise(history):
        former, state = before.after, event.after
        place = (event.at, state.class_name, former.standing, former.share)
        if state.phase is Phase.ROLLED_BACK and event.is_move:
            yield GuardTrip(*place, True, event.by, state.reason)
        elif state.alarm and state.alarm != former.alarm:
            yield GuardTrip(*place, False, event.by, state.alarm)


def _moves(history: Sequence[Event]) -> Iterator[Move]:
    for before, event in pairwise(history):
        former, state = before.after, event.after
        if event.is_move or state.share != former.share:
            place = (former.phase, former.share, state.phase, state.share)
            yield Move(event.at, state.class_name, *place, event.by, state.reason)


def _last_receipt(records: Records, names: Iterable[str]) -> datetime | None:
    query = select(func.max(PairRow.received_at)).where(PairRow.class_name.in_(list(names)))
    with reading(records.pairs.engine) as connection:
        last: datetime | None = connection.execute(query).scalar()
    return last


def _num_pairs(records: Records, names: Iterable[str]) -> int:
    """Pairs of these classes in which both models answered, each frame group once, none decided again."""
    query = select(func.count()).where(
        PairRow.class_name.in_(list(names)),
        PairRow.source.not_in(REDECIDED),
        PairRow.is_first,
        PairRow.candidate_alarm.is_not(None),
        PairRow.legacy_alarm.is_not(None),
    )
    with reading(records.pairs.engine) as connection:
        return int(connection.execute(query).scalar_one())
