"""What Compare says besides curves, as Rich text. Pure functions of the runs and of a theme's variables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mlx_align.engine.state import UNSCORED, UNSCORED_MORE
from mlx_align_cli.display.facts import labels, measured, pace, shown_eval, total_steps
from mlx_align_cli.display.listing import short_name, value_text
from mlx_align_cli.display.text import UNKNOWN, clean, duration, metric, one_line, size
from mlx_align_tui.screens.compare.reading import Measure, Side
from mlx_align_tui.widgets.badge import colour, sign

Variables = Mapping[str, str]
LEAST, KEY = 13, 24
"""The least width of a run's column, and the most of the names at the left."""
HIGHER = ("reward", "exact", "accuracy", "margin", "chosen_reward")
LOWER = ("loss", "truncated", "no_signal", UNSCORED)
"""Measures of which more or less is better; of the others neither is."""
OF_A_METHOD = ("loss", "margin", "chosen_reward", "rejected_reward")
"""Measures that mean another thing in another method: they are not ranked across methods."""
BEST = "★"


def colour_of(number: int) -> str:
    """The variable of the theme for the run of this number."""
    return f"curve-{number % 6 + 1}"


def legend(sides: Sequence[Side], variables: Variables, width: int) -> Text:
    """One line a run: its letter in the colour of its curve, and what it is."""
    lines = []
    for number, side in enumerate(sides):
        line = Text()
        line.append(f"━ {side.letter} ", style=f"bold {variables.get(colour_of(number), '')}")
        line.append(clean(f"{side.run.name if width >= 110 else short_name(side.run.name)}  "))
        if side.problem is not None:
            line.append(one_line(side.problem, 200), style=variables.get("error", ""))
        else:
            line.append(f"{side.method}  ", style="bold")
            line.append(
                f"{sign(side.condition)} {side.condition}", style=colour(side.condition, dict(variables))
            )
            line.append(f"  step {_steps(side)}  {_model(side)}", style=variables.get("quiet", ""))
        line.truncate(width - 2, overflow="ellipsis")
        lines.append(line)
    return Text("\n", no_wrap=True).join(lines)


def _steps(side: Side) -> str:
    total = total_steps(side.state)
    return f"{side.state.step:,}/{total:,}" if total else f"{side.state.step:,}"


def _model(side: Side) -> str:
    return clean(str(side.config.get("model.path", "")).rstrip("/").rsplit("/", 1)[-1])


@dataclass(frozen=True)
class Row:
    """One line of a table: a cell for each run, and the runs (by number) that are best, if any is."""

    name: str
    cells: tuple[str, ...]
    best: tuple[int, ...] = ()


def measure_rows(sides: Sequence[Side]) -> list[Row]:
    """The held-out measures of each run's adapter, then what it cost."""
    shown = [shown_eval(side.state) for side in sides]
    names = labels(key for taken in shown if taken for key in taken.metrics)
    same_method, uneven = len({side.method for side in sides}) == 1, _unevenly_scored(sides)
    rows = [Row("state", tuple(f"{sign(side.condition)} {side.condition}" for side in sides)),
            Row("method", tuple(side.method or UNKNOWN for side in sides)),
            Row("step", tuple(_steps(side) for side in sides))]  # fmt: skip
    for key, label in names.items():
        values = [measured(taken.metrics, key) if taken else None for taken in shown]
        ranked = not uneven if key == "reward" else same_method or key not in OF_A_METHOD
        rows.append(
            Row(label, tuple(metric(key, value) for value in values), _best(key, values) if ranked else ())
        )
    return rows + _costs(sides)


def _unevenly_scored(sides: Sequence[Side]) -> bool:
    """Whether the runs' mean rewards are of such different shares of their answers that the engine would not
    compare them: what could be scored may have been the easy ones.
    """
    shares = [measured(taken.metrics, UNSCORED) for side in sides if (taken := shown_eval(side.state))]
    known = [share for share in shares if share is not None]
    return max(known, default=0.0) > min(known, default=0.0) + UNSCORED_MORE


def _best(key: str, values: Sequence[float | None]) -> tuple[int, ...]:
    """Who is best; nobody where all are equal or only one is known."""
    known = [value for value in values if value is not None]
    higher = key in HIGHER or key.startswith("pass@")
    if len(set(known)) < 2 or not (higher or key in LOWER):
        return ()
    best = max(known) if higher else min(known)
    return tuple(number for number, value in enumerate(values) if value == best)


def _costs(sides: Sequence[Side]) -> list[Row]:
    paces = [pace(side.state) for side in sides]
    speeds = [each.tokens_per_second for each in paces]
    peaks = [side.state.memory.peak if side.state.memory else 0 for side in sides]
    return [
        Row("time", tuple(duration(each.elapsed) if side.state.started else UNKNOWN
                          for each, side in zip(paces, sides, strict=True))),
        Row("tokens/s", tuple(f"{speed:,.0f}" if speed else UNKNOWN for speed in speeds)),
        Row("peak memory", tuple(size(peak) if peak else UNKNOWN for peak in peaks)),
    ]  # fmt: skip


def notes(sides: Sequence[Side]) -> list[str]:
    """What keeps figures from being compared."""
    found = []
    methods = _methods(sides)
    if len(methods) > 1:
        different = f"Losses and margins of {', '.join(methods)} measure different things"
        found.append(f"{different}: no best is marked.")
    prints = {side.env.get("data_fingerprint") or side.env.get("data") for side in sides if side.env}
    if len(prints) > 1:
        found.append("They learn from different data, so they are measured on different held-out rows.")
    if _unevenly_scored(sides):
        found.append("Mean rewards are of the answers that could be scored, here of different shares of "
                     "them: no best is marked.")  # fmt: skip
    return found


def caution(sides: Sequence[Side], measure: Measure) -> str:
    """What keeps the curves of a measure from being compared, "" where nothing does."""
    methods = _methods([side for side in sides if measure in side.curves])
    if measure[1] not in OF_A_METHOD or len(methods) < 2:
        return ""
    return f"{', '.join(methods)} measure it differently"


def _methods(sides: Sequence[Side]) -> list[str]:
    return sorted({side.method for side in sides if side.method})


def difference_rows(sides: Sequence[Side]) -> list[Row]:
    """The settings in which runs differ; a key that a method does not have is a dash."""
    readable = [side for side in sides if side.config]
    keys = {key: None for side in readable for key in side.config}
    rows = []
    for key in keys:
        values = [side.config.get(key, _MISSING) for side in sides]
        known = {json.dumps(value, sort_keys=True) for value, side in zip(values, sides, strict=True)
                 if side.config and value is not _MISSING}  # fmt: skip
        absent = any(value is _MISSING for value, side in zip(values, sides, strict=True) if side.config)
        if len(known) > 1 or absent:
            rows.append(Row(key, tuple(_setting(value) for value in values)))
    return rows


_MISSING: Any = object()


def _setting(value: Any) -> str:
    return UNKNOWN if value is _MISSING else value_text(value)


def table(sides: Sequence[Side], rows: Sequence[Row], variables: Variables, width: int) -> RenderableType:
    """Rows by name, runs side by side; as many at once as there is room for, the others below."""
    names = min(KEY, max((len(row.name) for row in rows), default=0))
    each = max(1, (width - names - 2) // (LEAST + 2))
    parts: list[RenderableType] = []
    for start in range(0, len(sides), each):
        numbers = range(start, min(start + each, len(sides)))
        if parts:
            parts.append(Text())
        parts.append(_part(sides, numbers, rows, variables, names, width))
    return Group(*parts)


def _part(
    sides: Sequence[Side], numbers: range, rows: Sequence[Row], variables: Variables, names: int, width: int
) -> Table:
    quiet, best = variables.get("quiet", ""), f"bold {variables.get('success', '')}"
    share = min(32, (width - names - 2) // len(numbers) - 2)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=names, no_wrap=True, overflow="ellipsis")
    for _ in numbers:
        grid.add_column(width=share, no_wrap=True, overflow="ellipsis")
    grid.add_row(Text(), *(_heading(sides[n], n, variables, share) for n in numbers))
    for row in rows:
        cells = [
            Text(one_line(f"{row.cells[n]} {BEST}" if n in row.best else row.cells[n], share),
                 style=best if n in row.best else "")
            for n in numbers
        ]  # fmt: skip
        grid.add_row(Text(one_line(row.name, names), style=quiet), *cells)
    return grid


def _heading(side: Side, number: int, variables: Variables, width: int) -> Text:
    text = f"{side.letter} {short_name(side.run.name)}"
    return Text(one_line(text, width), style=f"bold {variables.get(colour_of(number), '')}")
