"""Line charts as SVG, without a library: a few curves over one axis, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Self

_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 180, 40, 46  # to the right of the curves are their names

# Middle tones have enough contrast with white and with black; text follows the page's own colour where it can.
_COLOURS = ("#3b82c4", "#d9730d", "#2e9e5b", "#a05cc0", "#c0394f", "#7a7a2a")
_STYLE = """\
  <style>
    text { font: 13px system-ui, sans-serif; fill: #333; }
    .title { font-weight: 600; }
    .axis { stroke: #888; }
    .grid { stroke: #888; stroke-opacity: .25; }
    @media (prefers-color-scheme: dark) { text { fill: #ddd; } }
  </style>"""


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve: points of x and y, in the order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves over common axes, which begin at 0, or with `log_x` and `log_y` at a power of ten.

    `x` and `y` say what is measured, and in what unit.
    """

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False


def svg(charts: Sequence[Chart]) -> str:
    """Return a document with the charts, one below the other. Raises `ValueError` where one has no points."""
    height = _HEIGHT * len(charts)
    titles = escape("; ".join(chart.title for chart in charts))
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{titles}">', _STYLE]
    for number, chart in enumerate(charts):
        parts += [f'  <g transform="translate(0 {number * _HEIGHT})">', *_drawn(chart), "  </g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def ticks(highest: float) -> list[float]:
    """Return round numbers from 0 to the first that is not below `highest`, about five steps."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    return [round(step * n, 10) for n in range(math.ceil(highest / step - 1e-9) + 1)]


def powers(lowest: float, highest: float) -> list[float]:
    """Return the powers of ten from the last that is not above `lowest` to the first that is not below `highest`.

    Raises `ValueError` where there is no such power: a logarithm has no place for 0.
    """
    first, last = math.floor(math.log10(lowest) + 1e-9), math.ceil(math.log10(highest) - 1e-9)
    return [10.0**exponent for exponent in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where values stand between `begin` and `end`, in pixels."""

    ticks: Sequence[float]
    begin: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float, *, log: bool) -> Self:
        marks = powers(min(values), max(values)) if log else ticks(max(values))
        return cls(marks, begin, end, log)

    def __call__(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        part = math.log(value / low) / math.log(high / low) if self.log else value / high
        return round(self.begin + part * (self.end - self.begin), 1)


def _apart(heights: Sequence[float], least: float, *, floor: float) -> list[float]:
    """Return `heights` moved up where needed, so that between any two there is room for a line of text.

    None comes above `floor` (heights count downwards): what would is moved down, and what is below it with it.
    """
    order = sorted(range(len(heights)), key=lambda n: -heights[n])
    placed: dict[int, float] = {}
    ceiling = math.inf
    for number in order:
        placed[number] = ceiling = min(heights[number], ceiling - least)
    for number in reversed(order):
        placed[number] = floor = max(placed[number], floor)
        floor += least
    return [placed[number] for number in range(len(heights))]


def _drawn(chart: Chart) -> list[str]:
    lines = [line for line in chart.lines if line.points]
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError(f"{chart.title}: nothing to draw")
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    across = _Axis.of([x for x, _ in points], _LEFT, right, log=chart.log_x)
    down = _Axis.of([y for _, y in points], bottom, _TOP, log=chart.log_y)
    xs, ys = across.ticks, down.ticks

    parts = [f'    <text class="title" x="{_LEFT}" y="18">{escape(chart.title)}</text>']
    for y in ys:
        parts.append(f'    <line class="grid" x1="{_LEFT}" y1="{down(y)}" x2="{right}" y2="{down(y)}"/>')
        parts.append(f'    <text x="{_LEFT - 8}" y="{down(y) + 4}" text-anchor="end">{y:,.10g}</text>')
    parts += [f'    <text x="{across(x)}" y="{bottom + 18}" text-anchor="middle">{x:,.10g}</text>' for x in xs]
    parts += [
        f'    <path class="axis" fill="none" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>',
        f'    <text x="{right}" y="{bottom + 36}" text-anchor="end">{escape(chart.x)}</text>',
        f'    <text x="{_LEFT}" y="{_TOP - 6}">{escape(chart.y)}</text>',
    ]
    labels = _apart([down(line.points[-1][1]) + 4 for line in lines], 15, floor=_TOP)
    for line, colour, label in zip(lines, _COLOURS, labels, strict=False):
        where = [(across(x), down(y)) for x, y in line.points]
        path = " ".join(f"{x},{y}" for x, y in where)
        parts.append(f'    <polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        parts += [f'    <circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in where]
        at = f'x="{where[-1][0] + 10}" y="{round(label, 1)}"'
        parts.append(f'    <text {at} style="fill:{colour}">{escape(line.name)}</text>')
    return parts
