"""A run's curves as one SVG text: small multiples, no scripts, no fonts or files from elsewhere.

The same picture stands in a model card and in a report. It has no background of its own, and its colours can
be read on a light page and on a dark one; who prefers dark pages gets lighter text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from mlx_align.events import Number, Rollout
from mlx_align.run_state import RunState

Point = tuple[float, Number]
"""A step, and the value there; None where there is none."""

COLOURS = ("#3b82f6", "#e08a00", "#12a594", "#c0529f")
"""Of a panel's series, in their order: each has a contrast of 3:1 or near it with white and with black."""

WIDTH, HEIGHT, GAP, COLUMNS = 380, 210, 12, 2
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 40, 28
"""A panel's size and the margins of the field its curves are drawn in, in pixels."""

WHOLE = {"Accuracy": (0.0, 1.0)}
"""Panels whose axis shows the whole range that values can have, so that a small change looks small."""

STYLE = """\
text { font: 11px system-ui, sans-serif; fill: #6e7781; }
.title { font-size: 13px; font-weight: 600; }
.grid { stroke: #8c959f; stroke-opacity: .3; }
.axis { stroke: #8c959f; }
path { fill: none; stroke-width: 1.5; stroke-linejoin: round; stroke-linecap: round; }
@media (prefers-color-scheme: dark) { text { fill: #adb5bd; } }"""


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        panel: the title of the panel it belongs to; curves of one panel share their axes.
        name: what the legend calls it.
        points: in the order of their steps.
    """

    panel: str
    name: str
    points: tuple[Point, ...]


def series_of(state: RunState) -> list[Series]:
    """The curves that a run has, those that say most first; a curve without any value is left out."""
    steps = state.steps

    def trained(panel: str, name: str, values: Sequence[Number]) -> Series:
        return Series(panel, name, tuple(zip(steps.column("step"), values, strict=True)))

    def held_out(panel: str, name: str, key: str) -> Series:
        return Series(panel, name, tuple((each.step, each.metrics.get(key)) for each in state.evals))

    def sampled(panel: str, name: str, value: Callable[[Rollout], Number]) -> Series:
        return Series(panel, name, tuple((each.step, value(each)) for each in state.rollouts))

    def both(panel: str, key: str) -> list[Series]:
        return [trained(panel, "training", steps.metric(key)), held_out(panel, "held out", key)]

    found = [
        trained("Loss", "training", steps.column("loss")),
        held_out("Loss", "held out", "loss"),
        sampled("Reward", "sampled", lambda rollout: rollout.reward.mean),
        held_out("Reward", "held out", "reward"),
        *both("Accuracy", "accuracy"),
        *both("Margin of the rewards", "margin"),
        trained("Rewards", "chosen", steps.metric("chosen_reward")),
        trained("Rewards", "rejected", steps.metric("rejected_reward")),
        trained("KL divergence from the start", "training", steps.metric("kl")),
        sampled("Length of the completions, tokens", "mean", lambda rollout: rollout.length_mean),
    ]
    return [each for each in found if any(_finite(value) for _, value in each.points)]


def _finite(value: Number) -> bool:
    return value is not None and math.isfinite(value)


def svg(series: Sequence[Series], title: str = "Training curves") -> str:
    """All curves as an SVG document.

    Args:
        series: at least one with a value; they are drawn in their order, a panel for each `Series.panel`.
        title: what the picture is, for who cannot see it.

    Returns:
        A whole XML document, of a size that does not grow with the number of points.
    """
    panels: dict[str, list[Series]] = {}
    for each in series:
        panels.setdefault(each.panel, []).append(each)
    rows = -(-len(panels) // COLUMNS)
    width = COLUMNS * WIDTH + (COLUMNS - 1) * GAP
    height = rows * HEIGHT + max(rows - 1, 0) * GAP
    drawn = [
        f'<g transform="translate({at % COLUMNS * (WIDTH + GAP)},{at // COLUMNS * (HEIGHT + GAP)})">\n'
        + "\n".join(_panel(name, group))
        + "\n</g>"
        for at, (name, group) in enumerate(panels.items())
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{STYLE}</style>",
        *drawn,
        "</svg>\n",
    ])  # fmt: skip


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high`, drawn from pixel `start` to pixel `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _axis(values: Iterable[float], start: float, end: float) -> _Axis:
    """An axis on which all values have room; one value alone stands in the middle of its own."""
    known = list(values)
    low, high = min(known, default=0.0), max(known, default=1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) / 2 or 0.5
        low, high = low - room, high + room
    return _Axis(low, high, start, end)


def _panel(title: str, group: Sequence[Series]) -> list[str]:
    """The elements of one panel."""
    known = [(x, y) for each in group for x, y in each.points if y is not None and math.isfinite(y)]
    floor = HEIGHT - BOTTOM
    across = _axis((x for x, _ in known), LEFT, WIDTH - RIGHT)
    up = _axis([*(y for _, y in known), *WHOLE.get(title, ())], floor, TOP)
    lines = [f'<text class="title" x="{LEFT}" y="14">{_text(title)}</text>']
    for tick in ticks(up.low, up.high):
        y = f"{up(tick):.1f}"
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y}" dy=".35em" text-anchor="end">{tick:g}</text>')
    for tick in ticks(across.low, across.high):
        x, y = f"{across(tick):.1f}", str(floor + 16)
        lines.append(f'<text x="{x}" y="{y}" text-anchor="middle">{tick:g}</text>')
    lines.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    for at, each in enumerate(group):
        colour, left = COLOURS[at % len(COLOURS)], LEFT + 90 * at
        lines.append(f'<path stroke="{colour}" d="M{left} 27h14"/>')
        lines.append(f'<text x="{left + 19}" y="31">{_text(each.name)}</text>')
        lines.append(f'<path stroke="{colour}" d="{_path(each.points, across, up)}"/>')
    return lines


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two others: multiples of 1, 2 or 5 times a power of ten, `about` so many."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _path(points: Sequence[Point], across: _Axis, up: _Axis) -> str:
    """A curve as a path, with a gap where a value is missing."""
    path = ""
    for known, stretch in groupby(points, lambda point: _finite(point[1])):
        if known:
            drawn = _thinned([(across(step), up(value)) for step, value in stretch if value is not None])
            path += "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in drawn)
            path += "h0" if len(drawn) == 1 else ""  # a point by itself is a dot
    return path


def _thinned(pixels: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of the points in one column of pixels the lowest and the highest, so that no peak is lost."""
    kept: list[tuple[float, float]] = []
    for _, column in groupby(pixels, lambda at: int(at[0])):
        points = list(column)
        kept += sorted({min(points, key=lambda at: at[1]), max(points, key=lambda at: at[1])})
    return kept


def _text(text: str) -> str:
    """A text inside an element; XML allows no control characters, however they are written."""
    return escape("".join(letter if letter.isprintable() else " " for letter in text), quote=False)
