"""From a long series to the few points that a terminal can show. Pure functions over (n,) float64 arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from textual_plot.axis_formatter import AxisFormatter

from mlx_align_cli.display.text import duration

Array = NDArray[np.float64]
LEVELS = (1, 5, 10, 25, 50, 100, 250, 1000)
"""Means over so many updates: the steps of smoothing."""


def smooth(values: Array, window: int) -> Array:
    """Each value's mean with those before it, `window` in all; NaN is left out of means and stays NaN."""
    if window <= 1 or len(values) < 2:
        return values
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if known.all():
            means: Array = _trailing(values, window) / np.minimum(np.arange(1, len(values) + 1), window)
            return means
        means = _trailing(np.where(known, values, 0.0), window) / _trailing(known.astype(np.float64), window)
    return np.where(known, means, np.nan)


def _trailing(values: Array, window: int) -> Array:
    """Sums of `window` values each. Nothing is taken away again: a huge value is gone when it is over."""
    blocks = np.zeros((-(-len(values) // window) + 1, window))  # the first stands for what was before
    blocks.reshape(-1)[window : window + len(values)] = values
    sums: Array = np.cumsum(blocks[1:], axis=1)
    sums[:, :-1] += np.cumsum(blocks[:-1, :0:-1], axis=1)[:, ::-1]  # of the block before, what is still in
    return sums.ravel()[: len(values)]


def decimate(x: Array, y: Array, columns: int) -> tuple[Array, Array]:
    """The lowest and the highest point of each column, in their order: what is seen stays as it was.

    Args:
        x: (n,) ascending and finite.
        y: (n,); what is not finite is left out.
        columns: how many there are.
    """
    if len(x) <= 2 * columns or columns < 1:
        finite = np.isfinite(y)
        return x[finite], y[finite]
    starts = np.unique(np.searchsorted(x, np.linspace(x[0], x[-1], columns, endpoint=False)))
    known = np.isfinite(y)
    low, high = (y, y) if known.all() else (np.where(known, y, np.inf), np.where(known, y, -np.inf))
    chosen: list[int] = []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(x)], strict=True):
        chosen += sorted({start + int(low[start:end].argmin()), start + int(high[start:end].argmax())})
    index = np.array(chosen)
    index = index[known[index]]  # a column may have nothing that was measured
    return x[index], y[index]


def stretches(x: Array, y: Array, shown: tuple[Array, Array], least: float) -> list[tuple[Array, Array]]:
    """What is drawn of a curve, in parts: where nothing was measured there is no line.

    Args:
        x: (n,) ascending and finite.
        y: (n,); what is not finite was not measured.
        shown: the points of them that are drawn.
        least: a gap that is narrower on the axis than this could not be seen, and makes no parts.
    """
    known = np.isfinite(y)
    if known.all():
        return [shown] if len(y) else []
    measured = np.flatnonzero(known)
    ends = np.flatnonzero(np.diff(measured) > 1)
    before, after = x[measured[ends]], x[measured[ends + 1]]
    places = np.searchsorted(shown[0], before[after - before > least], side="right")
    parts = zip(np.split(shown[0], places), np.split(shown[1], places), strict=True)
    return [part for part in parts if len(part[0])]


def visible(x: Array, low: float, high: float) -> slice:
    """The part of an ascending axis that a range shows, with one point more at each end for the line."""
    first, last = (int(n) for n in np.searchsorted(x, [low, high], side="left"))
    return slice(max(0, first - 1), min(len(x), last + 2))


def logarithm(values: Array) -> Array:
    """log10, NaN where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = np.log10(np.where(values > 0, values, np.nan))
    return result


def nearest(x: Array, position: float) -> int | None:
    """The index of the point nearest to a position on an ascending axis, None where there is none."""
    if not len(x):
        return None
    index = min(int(np.searchsorted(x, position)), len(x) - 1)
    return index - 1 if index and position - x[index - 1] < x[index] - position else index


def value_at(x: Array, y: Array, position: float, window: int = 1) -> float | None:
    """The value, smoothed over a window, of the point nearest to a position; None where there is none."""
    index = nearest(x, position)
    if index is None:
        return None
    value = float(smooth(y[max(0, index - window + 1) : index + 1], window)[-1])
    return value if math.isfinite(value) else None


def limits(parts: Sequence[Array], *, margin: float = 0.06) -> tuple[float, float]:
    """The range that shows all finite values with a little room; never of width 0."""
    known = [part[np.isfinite(part)] for part in parts]
    known = [part for part in known if len(part)]
    if not known:
        return 0.0, 1.0
    low, high = min(float(p.min()) for p in known), max(float(p.max()) for p in known)
    room = (high - low) * margin or max(abs(high) * 0.1, 0.01)
    return low - room, high + room


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """At most `count` round numbers in a range, at distances of 1, 2 or 5 times a power of ten."""
    if not _drawable(low, high, count):
        return []
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    return _first_fitting(low, high, count, (factor * power for factor in (1, 2, 5, 10, 20, 50)))


def time_ticks(low: float, high: float, count: int) -> list[float]:
    """At most `count` round times in a range of seconds."""
    if not _drawable(low, high, count):
        return []
    day = 86_400
    distances = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 43_200)
    return _first_fitting(low, high, count, (*distances, *(day * 2**n for n in range(12))))


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """At most `count` ticks in a range of exponents of ten: 1, 2 and 5 times powers, or only powers."""
    if not _drawable(low, high, count):
        return []
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [math.log10(factor) + power for power in powers for factor in factors]
        shown = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(shown) <= count:
            return shown
    if high - low < 1:  # a narrow range has no such number: take round ones
        return [math.log10(tick) for tick in nice_ticks(10.0**low, 10.0**high, count) if tick > 0]
    return _first_fitting(low, high, count, range(1, 400))


def _drawable(low: float, high: float, count: int) -> bool:
    return math.isfinite(low) and math.isfinite(high) and high > low and count >= 1


def _first_fitting(low: float, high: float, count: int, distances: Iterable[float]) -> list[float]:
    for distance in distances:
        first, last = math.ceil(low / distance - 1e-9), math.floor(high / distance + 1e-9)
        if last - first < count:
            return [n * distance for n in range(first, last + 1)]
    return []


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks in as few characters as tell them apart: 0.25, 1200, 12k, 3e-5."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if 0 < largest < 0.001:
        return [_short(tick) for tick in ticks]
    if largest >= 1e6:
        return [_short(tick) for tick in ticks]
    if largest >= 10_000:
        return [f"{tick / 1000:g}k" if tick else "0" for tick in ticks]
    distance = ticks[1] - ticks[0] if len(ticks) > 1 else 0.0
    decimals = max(0, -math.floor(math.log10(distance) + 1e-9)) if distance > 0 else 2
    return [f"{tick:.{decimals}f}" for tick in ticks]


def _short(tick: float) -> str:
    """A number with a power of ten, as -1.5e9 or 2e-4."""
    return re.sub(r"(\.0)?e\+?(-?)0?", r"e\2", f"{tick:.1e}") if tick else "0"


def time_labels(ticks: Sequence[float]) -> list[str]:
    """Seconds as 0:07, 12:30 or 1:02:03."""
    return [duration(tick) for tick in ticks]


def log_labels(ticks: Sequence[float]) -> list[str]:
    """Exponents of ten as the numbers that they mean."""
    return [f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}" for value in (10.0**t for t in ticks)]


class Ticks(AxisFormatter):
    """A few round ticks.

    Args:
        count: at most so many.
        kind: "linear"; "time", for seconds; or "log", for exponents of ten.
    """

    def __init__(self, count: int, kind: str = "linear") -> None:
        self._count = count
        self._ticks, self._labels = KINDS[kind]

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """Ticks in a range."""
        return self._ticks(min_, max_, min(self._count, max_ticks))

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Their labels."""
        return self._labels(ticks)


KINDS: dict[
    str, tuple[Callable[[float, float, int], list[float]], Callable[[Sequence[float]], list[str]]]
] = {
    "linear": (nice_ticks, tick_labels),
    "time": (time_ticks, time_labels),
    "log": (log_ticks, log_labels),
}
"""Kind of an axis -> what finds its ticks, and what makes their labels."""
