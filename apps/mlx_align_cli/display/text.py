"""Numbers, durations, sparklines and foreign text as terminal characters. Pure functions."""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Sequence
from datetime import timedelta

from rich.cells import cell_len, set_cell_size

from mlx_align.units import size as size  # stands here for who shows it beside other numbers

BLOCKS = "▁▂▃▄▅▆▇█"
UNKNOWN = "–"
SHARES = ("accuracy", "exact", "no_signal", "truncated", "unscored", "clip_low", "clip_high")
"""Metrics that are shown as percentages."""
_REORDERING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F}


def clean(text: str) -> str:
    """Text from a model or a file, made harmless for a terminal.

    Control characters become visible symbols (ESC is shown as ␛), characters that reorder a line or
    cannot be encoded become �; line breaks stay and tabs become spaces.
    """
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    return "".join(c if c == "\n" or c.isprintable() else _symbol(c) for c in text)


def _symbol(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    category = unicodedata.category(char)
    harmless = category in ("Zs", "Cf", "Co") and code not in _REORDERING
    return char if harmless else "�"


def one_line(text: str, width: int) -> str:
    """Cleaned text on one line of at most `width` cells; wide characters take two."""
    joined = " ".join(clean(text).split())
    return joined if cell_len(joined) <= width else set_cell_size(joined, max(0, width - 1)).rstrip() + "…"


def number(value: float | None) -> str:
    """A measured value with four or so significant digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    much = abs(value)
    if much >= 100_000 or much < 0.0005:
        return f"{value:.1e}"
    return f"{value:.{3 if much < 100 else 1 if much < 10_000 else 0}f}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def metric(key: str, value: float | None) -> str:
    """A metric's value in the form its name asks for."""
    return percent(value) if key in SHARES or key.startswith("pass@") else number(value)


def duration(seconds: float | None) -> str:
    """A span such as 0:07, 12:30 or 1:02:03."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    text = str(timedelta(seconds=round(max(0.0, seconds))))
    return text.removeprefix("0:0") if text.startswith("0:0") else text.removeprefix("0:")


def ago(seconds: float) -> str:
    """How long ago something was, in its largest unit."""
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def few(items: Sequence[str], limit: int = 3) -> str:
    """The first of many places such as file:line, each without its folder."""
    names = [item.rsplit("/", 1)[-1] for item in items[:limit]]
    return ", ".join([*names, "…"] if len(items) > limit else names)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The course of a series as at most `width` block characters; gaps where nothing was measured."""
    if width < 1:
        return ""
    points = _resample(values, width)
    known = [p for p in points if p is not None]
    if not known:
        return " " * len(points)
    low, high = min(known), max(known)
    flat = high - low <= 1e-9 * max(abs(high), abs(low))
    scale = 0.0 if flat else (len(BLOCKS) - 1) / (high - low)
    return "".join(" " if p is None else BLOCKS[round((p - low) * scale) if scale else 3] for p in points)


def _resample(values: Sequence[float | None], width: int) -> list[float | None]:
    values = [v if v is not None and math.isfinite(v) else None for v in values]
    if len(values) <= width:
        return values
    edges = [i * len(values) // width for i in range(width + 1)]
    return [_mean(values[a:b]) for a, b in itertools.pairwise(edges)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
