"""The report's section on the migration: its numbers in words, one picture of all classes, agreement over time.

    section = migration_section(timeline)

The picture has a row per class. A band is as long as its phase, has the colour of its phase, and is filled as high as
the share of images that the candidate answers: pale where today's model answers, full where the new model does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup

from shadowline.records.timeline import Band, ClassTimeline, GuardTrip, Move, Timeline, Window
from shadowline.report.figures import Figure, LegendEntry
from shadowline.report.formatting import join_words, number, percent, plural
from shadowline.report.svg import Axis, Plot, figure_element, text_element
from shadowline.rollout.engine import ENGINE
from shadowline.rollout.phases import Phase

WIDTH, LEFT, RIGHT, TOP = 960, 124, 16, 12  # SVG units
ROW, BAR = 42, 24  # of a class, of its band
FOOT = 38  # below the rows, for the axis
LETTER = 6.4  # width of a letter on a band
MAX_NAME = 17  # letters
MAX_TICKS = 12
TICK_DAYS = (1, 2, 7, 14, 28, 56, 91, 182, 364)  # between two ticks of the axis

MEANING = {  # short name, and what it means on the line
    Phase.LEGACY: ("before", "today’s model works alone"),
    Phase.SHADOW: ("shadow", "today’s model decides, the new one judges the same parts"),
    Phase.CANARY: ("canary", "the new model decides on a share of the parts"),
    Phase.LIVE: ("live", "the new model decides, today’s judges the same parts"),
    Phase.LEGACY_READ_ONLY: ("read-only", "as live, and the old model may no longer be trained"),
    Phase.LEGACY_OFF: ("old model off", "the new model works alone"),
    Phase.LEGACY_DELETED: ("deleted", "the old model is archived and gone: the end"),
    Phase.ALONE: ("alone", "the first model of this product works, and no other"),
    Phase.ROLLED_BACK: ("rolled back", "today’s model decides again, this candidate has failed"),
    Phase.HELD: ("held", "a person stopped the clock; who decides stayed as it was"),
    Phase.RETIRED: ("retired", "the product is made no more: no model decides"),
}
IN_WORDS = {  # guard → what it noticed
    "agreement": "The two models disagreed too often.",
    "drift": "The new model stopped parts more or less often than today’s, by more than is allowed.",
    "false_alarms": "Inspectors proved too many of the new model’s alarms false.",
    "misses": "Inspectors proved that the new model let too many defects pass.",
    "lost_defects": "Today’s model found more of the proven defects than the new one.",
    "latency": "The new model answered too slowly.",
    "errors": "The new model failed on too many images.",
    "alarm_rate": "The new model stopped parts more or less often than it used to.",
    "dropped": "Too many images were never judged by both models.",
}


@dataclass(frozen=True)
class Tile:
    name: str
    value: str
    beside: str


@dataclass(frozen=True)
class ChartNote:
    """A rollback, by the number that it has in the picture."""

    number: int
    when: str
    where: str
    in_words: str
    reason: str


@dataclass(frozen=True)
class MoveRow:
    when: str
    class_name: str
    source: str
    target: str
    target_css: str
    by: str
    reason: str


@dataclass(frozen=True)
class MigrationSection:
    """The section as the template shows it."""

    lead: str
    tiles: tuple[Tile, ...]
    chart: Markup
    keys: tuple[tuple[LegendEntry, str], ...]  # a phase that occurs, and its meaning
    notes: tuple[ChartNote, ...]
    agreement: tuple[Figure, ...]
    without_pairs: tuple[str, ...]  # classes
    undrawn: str  # empty where every pair is drawn
    moves: tuple[MoveRow, ...]


def migration_section(timeline: Timeline) -> MigrationSection:
    occurring = {band.phase for cls in timeline.classes for band in cls.bands}
    axis = _agreement_axis(timeline)
    return MigrationSection(
        lead=lead(timeline),
        tiles=_tiles(timeline),
        chart=gantt(timeline),
        keys=tuple(
            (LegendEntry(f"p-{phase}", MEANING[phase][0]), MEANING[phase][1]) for phase in Phase if phase in occurring
        ),
        notes=tuple(_note(number, trip) for number, trip in enumerate(timeline.rollbacks, start=1)),
        agreement=tuple(agreement_figure(cls, timeline, axis) for cls in timeline.classes if cls.windows),
        without_pairs=tuple(cls.name for cls in timeline.classes if not cls.windows),
        undrawn=_undrawn(timeline),
        moves=tuple(_move_row(move) for move in timeline.moves),
    )


# --- words ------------------------------------------------------------------------------------------------------


def lead(timeline: Timeline) -> str:
    """How far the migration is, in one or two sentences."""
    total, over = len(timeline.classes), sum(cls.taken_over for cls in timeline.classes)
    noun = "class" if total == 1 else "classes"
    when = f"after {plural(round(timeline.days), 'day')}"
    done = f"The new model has taken over {over} of {total} {noun} {when}."
    if all(cls.bands[-1].phase is Phase.LEGACY_DELETED for cls in timeline.classes):
        done = f"The migration is complete {when}: the new model does the work of all {total} old ones."
    if not timeline.rollbacks:
        return f"{done} No class had to be rolled back."
    return f"{done} {_recovery(timeline)}"


def _recovery(timeline: Timeline) -> str:
    names = list(dict.fromkeys(trip.class_name for trip in timeline.rollbacks))
    down = [cls.name for cls in timeline.classes if cls.bands[-1].standing is Phase.ROLLED_BACK]
    back = [name for name in names if name not in down]
    times = plural(len(timeline.rollbacks), "rollback")
    sentences = [f"There was {times}" if len(timeline.rollbacks) == 1 else f"There were {times}"]
    sentences += [f"{join_words(back)} came back with a new candidate"] if back else []
    sentences += [f"{join_words(down)} still {'waits' if len(down) == 1 else 'wait'} for one"] if down else []
    return "; ".join(sentences) + "."


def _tiles(timeline: Timeline) -> tuple[Tile, ...]:
    over = sum(cls.taken_over for cls in timeline.classes)
    rollbacks, counted = len(timeline.rollbacks), len(timeline.trips) - len(timeline.rollbacks)
    return (
        Tile("Taken over", f"{over} of {len(timeline.classes)}", "classes"),
        Tile("Days", number(timeline.days, 0), f"{date(timeline.start)} – {date(timeline.end)}"),
        Tile("Moves", str(len(timeline.moves)), "of phase or share"),
        Tile("Rollbacks", str(rollbacks), f"and {plural(counted, 'soft warning')}"),
        Tile("Ticks", str(timeline.num_ticks), "that changed something"),
    )


def _undrawn(timeline: Timeline) -> str:
    if not timeline.num_undrawn:
        return ""
    return (
        f"{plural(timeline.num_undrawn, 'pair')} not drawn: received before the rollout began, "
        "or judged by models that were not at work at the time."
    )


def _note(place: int, trip: GuardTrip) -> ChartNote:
    text = IN_WORDS.get(trip.reason.partition(":")[0], "") if trip.by == ENGINE else "A person took it back."
    where = f"{trip.class_name} went back from {phase_name(trip.phase, trip.share)}"
    return ChartNote(place, moment(trip.at), where, text, trip.reason)


def _move_row(move: Move) -> MoveRow:
    source, target = phase_name(move.source, move.source_share), phase_name(move.target, move.target_share)
    return MoveRow(moment(move.at), move.class_name, source, target, f"p-{move.target}", move.by, move.reason)


def phase_name(phase: Phase, share: float) -> str:
    """`canary 10 %`, `live`, …"""
    name, _ = MEANING[phase]
    return f"{name} {percent(share, 0)}" if phase is Phase.CANARY else name


def date(at: datetime) -> str:
    return f"{at.day} {at:%b %Y}"


def moment(at: datetime) -> str:
    return f"{at.day} {at:%b %Y, %H:%M}"


# --- the picture ------------------------------------------------------------------------------------------------


def gantt(timeline: Timeline) -> Markup:
    """All classes over all days."""
    axis = Axis(0.0, max(timeline.days, 1.0))
    height = TOP + ROW * len(timeline.classes) + FOOT
    parts = [*_time_axis(timeline, axis, height)]
    for position, cls in enumerate(timeline.classes):
        parts += _row(cls, timeline, axis, TOP + position * ROW)
    parts += _markers(timeline, axis)
    return figure_element(f"Phases of every class over time. {lead(timeline)}", WIDTH, height, parts, "chart timeline")


def _px(axis: Axis, day: float) -> float:
    return round(LEFT + axis.share(day) * (WIDTH - LEFT - RIGHT), 1)


def _time_axis(timeline: Timeline, axis: Axis, height: int) -> Iterator[Markup]:
    floor = height - FOOT + 2
    step = next((days for days in TICK_DAYS if axis.high / days <= MAX_TICKS), TICK_DAYS[-1])
    for day in range(0, int(axis.high) + 1, step):
        x = _px(axis, day)
        yield Markup('<path class="grid" d="M{} {}V{}"/>').format(x, TOP - 4, floor)
        weeks = step % 7 == 0
        yield text_element(x, floor + 14, f"week {day // 7}" if weeks else f"day {day}", "tick middle")
        at = timeline.start + timedelta(days=day)
        yield text_element(x, floor + 28, f"{at.day} {at:%b}", "tick middle")
    yield Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, floor, WIDTH - RIGHT)


def _row(cls: ClassTimeline, timeline: Timeline, axis: Axis, top: int) -> Iterator[Markup]:
    name = cls.name if len(cls.name) <= MAX_NAME else cls.name[: MAX_NAME - 1] + "…"
    yield Markup("<g><title>{}, wave {}</title>").format(cls.name, cls.wave)
    yield text_element(LEFT - 12, top + 17, name, "row end")
    yield text_element(LEFT - 12, top + 30, f"wave {cls.wave}", "tick end") + Markup("</g>")
    for band in cls.bands:
        yield _band(band, timeline, axis, top + (ROW - BAR) // 2)
    last = cls.bands[-1]
    if last.phase is Phase.LEGACY_DELETED:
        x, y = _px(axis, timeline.day(last.start)), top + ROW / 2
        hint = f"{date(last.start)}: {MEANING[last.phase][1]}"
        yield Markup('<path class="goal" d="M{} {}l7 7l-7 7l-7 -7z"><title>{}</title></path>').format(x, y - 7, hint)


def _band(band: Band, timeline: Timeline, axis: Axis, top: float) -> Markup:
    """A pale rectangle, filled from below by the candidate's share, with its name where that fits."""
    left, right = (_px(axis, timeline.day(at)) for at in (band.start, band.end))
    width, filled = round(max(right - left, 0.8), 1), round(BAR * band.share, 1)
    rect = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
    parts = [rect.format("pale", left, top, width, BAR)]
    parts += [rect.format("fill", left, top + BAR - filled, width, filled)] if filled else []
    label, indent = phase_name(band.phase, band.share), 14 if band.phase is Phase.LEGACY_DELETED else 7
    if width >= LETTER * len(label) + indent + 5:
        parts.append(text_element(left + indent, top + BAR / 2 + 4, label, "note"))
    opening = Markup('<g class="phase p-{}"><title>{}</title>').format(band.phase, _hint(band))
    return opening + Markup("").join(parts) + Markup("</g>")


def _hint(band: Band) -> str:
    held = f" in {MEANING[band.held_from][0]}" if band.held_from else ""
    days = plural(round((band.end - band.start) / timedelta(days=1)), "day")
    models = f"candidate {band.candidate[:12]}, legacy {band.legacy[:12]}"
    return f"{phase_name(band.phase, band.share)}{held}: {date(band.start)} – {date(band.end)}, {days}; {models}"


def _markers(timeline: Timeline, axis: Axis) -> Iterator[Markup]:
    """Numbered discs for rollbacks, small triangles for soft failures."""
    tops = {cls.name: TOP + position * ROW for position, cls in enumerate(timeline.classes)}
    numbers = {trip: place for place, trip in enumerate(timeline.rollbacks, start=1)}
    for trip in timeline.trips:
        x, top = _px(axis, timeline.day(trip.at)), tops[trip.class_name] + (ROW - BAR) // 2
        hint = f"{moment(trip.at)}: {trip.class_name}: {trip.reason}"
        if trip.rolled_back:
            yield Markup('<g class="trip"><title>{}</title>').format(hint)
            yield Markup('<path d="M{} {}V{}"/><circle cx="{}" cy="{}" r="8.5"/>').format(x, top, top + BAR, x, top - 1)
            yield text_element(x, top + 3, str(numbers[trip]), "middle") + Markup("</g>")
        else:
            shape = Markup('<path class="warning" d="M{} {}l4.5 7.5h-9z"><title>{}</title></path>')
            yield shape.format(x, top + BAR + 1, hint)


# --- agreement --------------------------------------------------------------------------------------------------


def agreement_figure(cls: ClassTimeline, timeline: Timeline, axis: Axis) -> Figure:
    """Settled agreement per window with its interval, over the days since the start, against the bound."""
    plot = Plot(
        f"Agreement of both models on {cls.name} over time",
        x=Axis(0.0, max(timeline.days, 1.0), f"days since {date(timeline.start)}"),
        y=axis,
    )
    for window in cls.windows:
        rate = window.settled
        edges = [(timeline.day(at), rate.low, rate.high) for at in (window.start, window.end)]
        plot.band(edges, "c-fused")
    plot.line([(0.0, timeline.min_agreement), (timeline.days, timeline.min_agreement)], "c-threshold")
    for run in _runs(cls.windows):
        plot.line([(_middle(window, timeline), window.settled.value) for window in run], "c-fused")
    for window in cls.windows:
        plot.dot((_middle(window, timeline), window.settled.value), "c-fused", _window_hint(window))
    keys = [LegendEntry("c-fused", "agreement"), LegendEntry("c-fused block", "interval")]
    keys += [LegendEntry("c-threshold dash1", f"needed: {percent(timeline.min_agreement)}")]
    keys += _mark_trips(plot, cls.name, timeline, axis)
    return Figure(cls.name, plot.render(), tuple(keys))


def _agreement_axis(timeline: Timeline) -> Axis:
    """One axis for all classes: from below the lowest agreement, rounded down to 0.05, to 1."""
    values = [window.settled.value for cls in timeline.classes for window in cls.windows]
    lowest = min([*values, timeline.min_agreement])
    return Axis(max(0.0, (lowest - 0.05) // 0.05 * 0.05), 1.0, "settled agreement", lambda value: percent(value, 0))


def _runs(windows: Iterable[Window]) -> list[list[Window]]:
    """Windows that follow each other without a gap; a line joins only these."""
    runs: list[list[Window]] = []
    for window in windows:
        if runs and runs[-1][-1].end == window.start:
            runs[-1].append(window)
        else:
            runs.append([window])
    return runs


def _middle(window: Window, timeline: Timeline) -> float:
    return (timeline.day(window.start) + timeline.day(window.end)) / 2


def _window_hint(window: Window) -> str:
    rate = window.settled
    interval = f"{percent(rate.low)} to {percent(rate.high)}"
    return f"{date(window.start)} – {date(window.end)}: {percent(rate.value)} ({interval}) of {rate.num_total} parts"


def _mark_trips(plot: Plot, class_name: str, timeline: Timeline, axis: Axis) -> list[LegendEntry]:
    """Draw a line per rollback, and a dot on the axis per soft failure; returns the legend's entry for the dots."""
    for place, trip in enumerate(timeline.rollbacks, start=1):
        if trip.class_name == class_name:
            plot.vertical(timeline.day(trip.at), "c-bound", f"rollback {place}")
    soft = [trip for trip in timeline.trips if trip.class_name == class_name and not trip.rolled_back]
    for trip in soft:
        plot.dot((timeline.day(trip.at), axis.low), "c-series4", f"{moment(trip.at)}: {trip.reason}")
    return [LegendEntry("c-series4 point", "soft warning")] if soft else []
