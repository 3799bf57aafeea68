"""Line charts as SVG, without a library: a few curves over one axis, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 46

# Middle tones have enough contrast with white and with black; text follows the page's own colour where it can.
_COLOURS = ("#3b82c4", "#d9730d", "#2e9e5b")
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
    """Curves over common axes, which both begin at 0. `x` and `y` say what is measured, and in what unit."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]


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


def _drawn(chart: Chart) -> list[str]:
    points = [point for line in chart.lines for point in line.points]
    if not points:
        raise ValueError(f"{chart.title}: nothing to draw")
    xs, ys = ticks(max(x for x, _ in points)), ticks(max(y for _, y in points))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(x: float) -> float:
        return round(_LEFT + x / xs[-1] * (right - _LEFT), 1)

    def down(y: float) -> float:
        return round(bottom - y / ys[-1] * (bottom - _TOP), 1)

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
    for line, colour in zip(chart.lines, _COLOURS, strict=False):
        where = [(across(x), down(y)) for x, y in line.points]
        path = " ".join(f"{x},{y}" for x, y in where)
        parts.append(f'    <polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>')
        parts += [f'    <circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in where]
        end_x, end_y = where[-1]
        at = f'x="{end_x - 6}" y="{end_y - 8}" text-anchor="end"'
        parts.append(f'    <text {at} style="fill:{colour}">{escape(line.name)}</text>')
    return parts
