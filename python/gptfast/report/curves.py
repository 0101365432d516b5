"""Draw curves as SVG whose sizes are shares of the page's width, with the numbers in a table.

All colours are classes, so that a page can be light or dark. web/charts.js adds the values at the
pointer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gptfast.report.markup import text
from gptfast.web import page

MAX_POINTS = 400
"""Points of a curve; of more, neighbours are averaged."""

LABEL = 0.06
"""Height of a label, as a share of the figure's."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A curve, or a level: a single value that does not depend on x."""

    name: str
    points: Sequence[Point]
    """Values (x, y), by rising x."""
    kind: str
    """The class that has its colour: 'val', 'train', 'level' or 'run-0' to 'run-7'."""
    has_dots: bool = False
    level: float | None = None


@dataclass(frozen=True)
class Axes:
    """What the axes are, and where they end."""

    x: str
    y: str
    is_log: bool = False
    """Whether x is logarithmic; points at 0 are left out."""
    digits: int = 4
    """Decimal places of y where a value is read."""


def chart(title: str, axes: Axes, series: Sequence[Series], small: bool = False) -> str:
    """Return a figure with the curves, a legend and the data for the pointer.

    Levels and curves without a point are left out of the range of x. Returns "" without any point.
    """
    drawn = [_shown(one, axes) for one in series]
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    if not xs:
        return ""
    ys += [one.level for one in drawn if one.level is not None]
    scale = Scale(min(xs), max(xs), *_padded(min(ys), max(ys)), axes.is_log)
    legend = "".join(
        f'<li><svg class="key {one.kind}" aria-hidden="true" viewBox="0 0 24 8">'
        f'<path class="line {one.kind}" d="M1 4H23"/></svg>{text(one.name)}</li>'
        for one in drawn
        if one.points
    )
    data = {
        "x": axes.x,
        "digits": axes.digits,
        "series": [
            {
                "name": one.name,
                "kind": one.kind,
                "level": one.level,
                "points": [
                    [x, y, round(scale.x(x), 4), round(scale.y(y), 4)] for x, y in one.points
                ],
            }
            for one in drawn
        ],
    }  # fmt: skip
    kind = "chart small" if small else "chart"
    return (
        f'<figure class="{kind}"><figcaption>{text(title)}</figcaption>'
        f'<div class="plot"><svg class="canvas" tabindex="0" role="slider" aria-valuemin="0" '
        f'aria-valuemax="1" aria-valuenow="0" aria-valuetext="{text(axes.x)}" '
        f'aria-label="{text(title)}: arrow keys read the values">'
        f"{''.join(_grid(scale, axes, small))}"
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">'
        f"{''.join(_line(one, scale) for one in drawn)}</svg>"
        f"{''.join(_dots(one, scale) for one in drawn if one.has_dots or len(one.points) == 1)}"
        f"{''.join(_labels(drawn, scale))}"
        f'<g class="cursor" hidden></g></svg><div class="values" hidden></div></div>'
        f'<ul class="legend">{legend}</ul>'
        f'<script type="application/json">{page.json_for_html(json.dumps(data))}</script></figure>'
    )


@dataclass(frozen=True)
class Scale:
    """Places of values in the figure, from 0 to 1: x from the left, y from the top."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    is_log: bool

    def x(self, value: float) -> float:
        """Return the place of a value of x."""
        low, high = self.x_low, self.x_high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.5

    def y(self, value: float) -> float:
        """Return the place of a value of y."""
        return (self.y_high - value) / (self.y_high - self.y_low)


def averaged(points: Sequence[Point], n: int = MAX_POINTS) -> list[Point]:
    """Return at most n points, each the mean of as many neighbours, placed at the last of them."""
    size = math.ceil(len(points) / n)
    if size < 2:
        return list(points)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _shown(one: Series, axes: Axes) -> Series:
    points = [(x, y) for x, y in one.points if not (axes.is_log and x <= 0)]
    return Series(one.name, averaged(points), one.kind, one.has_dots, one.level)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - room, high + room


def _grid(scale: Scale, axes: Axes, small: bool) -> Iterator[str]:
    from matplotlib.ticker import LogLocator, MaxNLocator  # imported late: takes half a second

    bins = 3 if small else 6
    nice = MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10])
    for y in nice.tick_values(scale.y_low, scale.y_high):
        if scale.y_low <= y <= scale.y_high:
            at = _percent(scale.y(y))
            yield f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
            yield f'<text class="tick y" x="0" y="{at}" dx="-0.6em" dy="0.32em">{_plain(y)}</text>'
    whole = MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10], integer=True)
    along = LogLocator(numticks=6) if scale.is_log else whole
    for x in along.tick_values(scale.x_low, scale.x_high):
        if scale.x_low <= x <= scale.x_high:
            at = _percent(scale.x(x))
            yield f'<line class="grid x" x1="{at}" x2="{at}" y1="0" y2="100%"/>'
            yield f'<text class="tick x" x="{at}" y="100%" dy="1.5em">{_plain(x)}</text>'
    yield f'<text class="name" x="100%" y="100%" dy="2.9em">{text(axes.x)}</text>'
    yield f'<text class="name y" x="0" y="0" dy="-0.7em" dx="-2.6em">{text(axes.y)}</text>'


def _line(one: Series, scale: Scale) -> str:
    if one.level is not None:
        y = f"{1000 * scale.y(one.level):.1f}"
        return f'<path class="line {one.kind}" d="M0 {y}H1000"/>'
    places = " ".join(f"{1000 * scale.x(x):.1f},{1000 * scale.y(y):.1f}" for x, y in one.points)
    return f'<polyline class="line {one.kind}" points="{places}"/>'


def _labels(series: Sequence[Series], scale: Scale) -> Iterator[str]:
    """Yield the name of each level above its line, or below it if another's is close above."""
    places = [scale.y(one.level) for one in series if one.level is not None]
    for one in series:
        if one.level is not None:
            y = scale.y(one.level)
            is_low = any(0 < y - other < LABEL for other in places)
            at = f'x="100%" y="{_percent(y)}" dy="{1.1 if is_low else -0.45}em"'
            yield f'<text class="name" {at}>{text(one.name)}</text>'


def _dots(one: Series, scale: Scale) -> str:
    return "".join(
        f'<circle class="dot {one.kind}" cx="{_percent(scale.x(x))}" cy="{_percent(scale.y(y))}" '
        f'r="3"/>'
        for x, y in one.points
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _plain(value: float) -> str:
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value / 1e6:,.6g}M"
