"""Line charts as SVG, for a report that needs no other file."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fusionjax.recipes.escaping import escape

Points = list[tuple[float, float]]

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 30, 28
_MOST_POINTS = 400
_NUM_COLOURS = 4  # the style sheet of the page has as many, as .line0 to .line3


class _Axis(NamedTuple):
    """Maps [low, high] to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw_curves(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Draws one chart for each metric of a training, with a line for each part of the data it was measured on.

    Args:
        history: one row per log: `step`, and metrics named `part/metric`, such as `train/loss`. A row need not have all
            metrics; values that are not finite are left out.

    Returns:
        The charts as SVG elements, one per name after the last `/`, in the order in which they first come.

    Example:
        >>> charts = draw_curves([{"step": 1, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0, "test/loss": 2.5}])
        >>> len(charts), charts[0].count("<polyline")
        (1, 2)
    """
    charts: dict[str, dict[str, Points]] = {}
    for row in history:
        for name, value in row.items():
            if name == "step" or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            part, _, metric = name.rpartition("/")
            charts.setdefault(metric, {}).setdefault(part, []).append((float(row.get("step", 0)), float(value)))
    return [draw_chart(metric, lines) for metric, lines in charts.items()]


def draw_chart(title: str, lines: Mapping[str, Points]) -> str:
    """Draws lines over steps as one SVG element; text and axes take the colour of the text around them.

    Args:
        title: shown above, and read out to those who cannot see the chart.
        lines: points `(step, value)` by name, none empty, all finite.

    Returns:
        The SVG element.

    Example:
        >>> draw_chart("loss", {"train": [(0.0, 1.0), (9.0, 0.5)]})[:4]
        '<svg'
    """
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    across = _Axis(*_widen(min(steps), max(steps)), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(*_widen(min(values), max(values)), _HEIGHT - _BOTTOM, _TOP)
    parts = [_draw_grid(across, up)]
    parts += [_draw_line(number, name, points, across, up) for number, (name, points) in enumerate(lines.items())]
    label = escape(title)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label} over steps">'
        f'<text class="title" x="{_LEFT}" y="15">{label}</text>{"".join(parts)}</svg>'
    )


def _widen(low: float, high: float) -> tuple[float, float]:
    """A line that does not move still needs an axis."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _draw_grid(across: _Axis, up: _Axis) -> str:
    parts = []
    for value in choose_ticks(up.low, up.high, 4):
        y = f"{up.place(value):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y}" dy="4" text-anchor="end">{value:.4g}</text>')
    for step in choose_ticks(across.low, across.high, 5):
        place = f'x="{across.place(step):.1f}" y="{_HEIGHT - 10}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{step:,.6g}</text>')
    return "".join(parts)


def _draw_line(number: int, name: str, points: Points, across: _Axis, up: _Axis) -> str:
    """The line, a dot at its end (all there is of a single point), and its name at the top right."""
    stride = -(-len(points) // _MOST_POINTS)
    kept = [*points[:-1:stride], points[-1]]
    path = " ".join(f"{across.place(step):.1f},{up.place(value):.1f}" for step, value in kept)
    x, y = path.rsplit(" ", 1)[-1].split(",")
    colour = f"line{number % _NUM_COLOURS}"
    legend = f'x="{_WIDTH - _RIGHT - 92 * number}" y="15" text-anchor="end"'
    return (
        f'<polyline class="line {colour}" points="{path}"/><circle class="dot {colour}" cx="{x}" cy="{y}" r="3"/>'
        f'<text class="name {colour}" {legend}>{escape(name)} {points[-1][1]:.4g}</text>'
    )


def choose_ticks(low: float, high: float, most: int) -> list[float]:
    """Chooses round numbers in a range: multiples of 1, 2, 2.5 or 5 times a power of ten.

    Args:
        low: start of the range.
        high: end of the range, above `low`.
        most: how many spaces between ticks are wanted at most.

    Returns:
        The numbers, ascending, all within the range.

    Example:
        >>> choose_ticks(0.3, 11.0, 5)
        [2.5, 5.0, 7.5, 10.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    spacing = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power * most >= high - low)
    first, last = math.ceil(low / spacing), math.floor(high / spacing)
    return [number * spacing for number in range(first, last + 1)]
