"""Charts as inline SVG whose colours are the page's CSS classes: they follow light, dark and print, and need no script.

    plot = Plot("Loss over steps", x=Axis(0, 160), y=Axis(0, 1))
    plot.line([(0, 1.0), (160, 0.2)], "c-fused")
    markup = plot.render()

A mark's class pairs a shape (`line`, `area`, `dot`) with a colour (`c-normal`, `c-anomalous`, …) of report.css.
Every text goes through markupsafe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]  # data units

WIDTH = 420  # SVG units; about a pixel on a phone as on a desk
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 34, 40


@dataclass(frozen=True)
class Axis:
    """A range of data with its label and the format of its ticks."""

    low: float
    high: float
    label: str = ""
    tick: Callable[[float], str] = "{:g}".format

    def share(self, value: float) -> float:
        """Where `value` lies between low (0) and high (1); values outside are moved to the nearer end."""
        return min(max((value - self.low) / ((self.high - self.low) or 1.0), 0.0), 1.0)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values (1, 2 or 5 times a power of ten) from low to high."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        power = 10.0 ** math.floor(math.log10(span / count))
        step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 12) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Plot:
    """One chart with a horizontal grid; marks are drawn in the order in which they are added."""

    def __init__(self, label: str, *, x: Axis, y: Axis, height: int = 262, width: int = WIDTH) -> None:
        self._label, self._x, self._y, self._width, self._height = label, x, y, width, height
        self._parts: list[Markup] = [*self._grid(), *self._axis_labels()]

    def px(self, value: float) -> float:
        return round(LEFT + self._x.share(value) * (self._width - LEFT - RIGHT), 1)

    def py(self, value: float) -> float:
        return round(self._height - BOTTOM - self._y.share(value) * (self._height - TOP - BOTTOM), 1)

    def _grid(self) -> Iterable[Markup]:
        left, right, floor = LEFT, self._width - RIGHT, self._height - BOTTOM
        for value in self._y.ticks(5):
            y = self.py(value)
            yield Markup('<path class="grid" d="M{} {}H{}"/>').format(left, y, right)
            yield text_element(left - 7, y + 3.5, self._y.tick(value), "tick end")
        for value in self._x.ticks():
            yield Markup('<path class="axis" d="M{} {}v4"/>').format(self.px(value), floor)
            yield text_element(self.px(value), floor + 16, self._x.tick(value), "tick middle")
        yield Markup('<path class="axis" d="M{} {}H{}"/>').format(left, floor, right)

    def _axis_labels(self) -> Iterable[Markup]:
        if self._y.label:
            yield text_element(4, 11, self._y.label, "label")
        if self._x.label:
            yield text_element((LEFT + self._width - RIGHT) / 2, self._height - 6, self._x.label, "label middle")

    def line(self, points: Sequence[Point], css: str) -> None:
        self._parts.append(Markup('<path class="line {}" d="{}"/>').format(css, self._path(points)))

    def area(self, points: Sequence[Point], css: str) -> None:
        """Filled down to the lower end of the y axis."""
        if points:
            floor = [(points[-1][0], self._y.low), (points[0][0], self._y.low)]
            path = self._path([*points, *floor])
            self._parts.append(Markup('<path class="area {}" d="{}Z"/>').format(css, path))

    def band(self, edges: Sequence[tuple[float, float, float]], css: str) -> None:
        """Filled between a lower and an upper edge: (x, low, high) from left to right."""
        outline = [(x, high) for x, _, high in edges] + [(x, low) for x, low, _ in reversed(edges)]
        self._parts.append(Markup('<path class="area {}" d="{}Z"/>').format(css, self._path(outline)))

    def dot(self, point: Point, css: str, hint: str) -> None:
        mark = Markup('<circle class="dot {}" cx="{}" cy="{}" r="4.5"><title>{}</title></circle>')
        self._parts.append(mark.format(css, self.px(point[0]), self.py(point[1]), hint))

    def vertical(self, value: float, css: str, label: str) -> None:
        """A line across the chart at an x value, with its label above it."""
        x = self.px(value)
        side, shift = ("start", 4) if self._x.share(value) < 0.6 else ("end", -4)
        self._parts.append(Markup('<path class="line {}" d="M{} {}V{}"/>').format(css, x, 20, self._height - BOTTOM))
        self._parts.append(text_element(x + shift, 28, label, f"note {side}"))

    def render(self) -> Markup:
        return figure_element(self._label, self._width, self._height, self._parts)

    def _path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{self.px(x):g} {self.py(y):g}" for x, y in points)


@dataclass(frozen=True)
class Bar:
    name: str
    parts: tuple[tuple[float, str, str], ...]  # value, colour class, text of its tooltip; stacked left to right
    text: str  # what stands behind the bar


def bar_chart(label: str, bars: Sequence[Bar], *, bound: tuple[float, str] | None = None) -> Markup:
    """Horizontal bars from zero, one a row; `bound` is a limit with its label, drawn across all rows."""
    name_width, text_width, row, top = 112, 78, 30, 22 if bound else 6
    longest = max([sum(value for value, *_ in bar.parts) for bar in bars] + [bound[0] if bound else 0.0, 1e-9])
    scale = (WIDTH - name_width - text_width) / longest
    height = top + row * len(bars) + 4
    parts: list[Markup] = []
    for index, bar in enumerate(bars):
        y, x = top + index * row, float(name_width)
        parts.append(text_element(name_width - 8, y + row / 2 + 4, bar.name, "row end"))
        for value, css, hint in bar.parts:
            rect = Markup('<rect class="bar {}" x="{:.1f}" y="{}" width="{:.1f}" height="16"><title>{}</title></rect>')
            parts.append(rect.format(css, x, y + 7, max(value * scale, 0.8), hint))
            x += value * scale
        parts.append(text_element(x + 7, y + row / 2 + 4, bar.text, "row value"))
    parts.append(Markup('<path class="axis" d="M{} {}V{}"/>').format(name_width, top, height - 4))
    if bound:
        x = round(name_width + bound[0] * scale, 1)
        parts.append(Markup('<path class="line c-bound" d="M{} {}V{}"/>').format(x, 16, height - 4))
        side = "middle" if bound[0] < 0.8 * longest else "end"
        parts.append(text_element(x + (8 if side == "end" else 0), 11, bound[1], f"note {side}"))
    return figure_element(label, WIDTH, height, parts)


def whisker(label: str, axis: Axis, value: float, low: float, high: float, other: float | None) -> Markup:
    """A dot with its interval on one line, and a hollow diamond where `other` lies: one row of a table."""
    width, height, pad = 150, 22, 7
    x_of = {key: pad + axis.share(at) * (width - 2 * pad) for key, at in (("v", value), ("l", low), ("h", high))}
    parts = [
        Markup('<path class="grid" d="M{} 11H{}"/>').format(pad, width - pad),
        Markup('<path class="whisker" d="M{:.1f} 11H{:.1f}M{:.1f} 7v8M{:.1f} 7v8"/>').format(
            x_of["l"], x_of["h"], x_of["l"], x_of["h"]
        ),
        Markup('<circle class="dot c-fused" cx="{:.1f}" cy="11" r="4.2"/>').format(x_of["v"]),
    ]
    if other is not None:
        diamond = Markup('<path class="diamond" d="M{:.1f} 6l5 5l-5 5l-5-5z"/>')
        parts.append(diamond.format(pad + axis.share(other) * (width - 2 * pad)))
    return figure_element(label, width, height, parts, css="whisker-chart")


def figure_element(label: str, width: int, height: int, parts: Iterable[Markup], css: str = "chart") -> Markup:
    """The `svg` element around its parts; `label` is what a screen reader says."""
    opening = Markup('<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {} {}">').format(
        css, label, width, height
    )
    return opening + Markup("").join(parts) + Markup("</svg>")


def text_element(x: float, y: float, text: str, css: str) -> Markup:
    return Markup('<text class="{}" x="{:g}" y="{:g}">{}</text>').format(css, round(x, 1), round(y, 1), text)
