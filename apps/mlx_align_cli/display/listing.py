"""Tables on stdout: settings with their origins, the list of runs, one run."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_align_cli.display.text import UNKNOWN, ago, clean
from mlx_align_cli.saved import metrics_of

if TYPE_CHECKING:
    from mlx_align.runs import RunDirectory
    from mlx_align.settings import Resolved
    from mlx_align_cli.schema import Key

UNBOUNDED = 10_000
CONDITION_STYLES = {
    "running": "cyan",
    "finished": "green",
    "stopped": "yellow",
    "failed": "red",
    "crashed": "red",
}


def stdout() -> Console:
    """A console on stdout; where that is no terminal, lines are never wrapped or cut."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=UNBOUNDED)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Aligned columns."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    console = stdout()
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def value_text(value: Any) -> str:
    """A configuration value as a person would write it."""
    if value is None:
        return "(unset)"
    return value if isinstance(value, str) else json.dumps(value)


def print_settings(resolved: Resolved, *, as_json: bool) -> None:
    """Every key, its value and where that comes from."""
    if as_json:
        print(json.dumps({k: {"value": v, "origin": o} for k, v, o in resolved.items()}, indent=2))
        return
    print_table(
        ("key", "value", "origin"),
        (
            (key, value_text(value), Text(clean(origin), style="dim" if origin == "default" else "cyan"))
            for key, value, origin in resolved.items()
        ),
    )


def run_facts(run: RunDirectory) -> dict[str, Any]:
    """A run in a few values; cheap where the engine has left a summary, from the whole log elsewhere."""
    from mlx_align.runs.chosen import best_checkpoint

    summary = run.summary()
    if "step" not in summary:
        summary = {**summary, **_from_log(run)}
    status = str(summary.get("status", "new"))
    if run.is_running():
        status = "running"
    elif status == "running":  # it has died, or said its last word to the log only
        status = run.condition(run.state())
    metrics = summary.get("metrics") or {}
    if status == "finished" and (best := best_checkpoint(run)):  # its adapter is what the run came to
        metrics = metrics_of(best) or metrics
    changed = (run.events if run.events.exists() else run.path).stat().st_mtime
    return {
        "name": run.name,
        "method": summary.get("method"),
        "model": summary.get("model") or run.env().get("model"),
        "condition": status,
        "step": summary.get("step", 0),
        "total_steps": summary.get("total_steps") or None,
        "metrics": metrics,
        "changed": changed,
        "path": str(run.path.resolve()),
    }


def _from_log(run: RunDirectory) -> dict[str, Any]:
    from mlx_align_cli.display.facts import shown_eval

    state = run.state()
    newest = shown_eval(state)
    started = (
        {"model": state.started.model, "total_steps": state.started.total_steps} if state.started else {}
    )
    return {
        "status": state.status,
        "step": state.step,
        "metrics": newest.metrics if newest else {},
        **started,
    }


def print_runs(runs: Sequence[RunDirectory], *, as_json: bool) -> None:
    """The list of runs."""
    from mlx_align.errors import AlignError

    rows = []
    for run in runs:
        try:
            rows.append(run_facts(run))
        except AlignError as error:
            rows.append({"name": run.name, "condition": "unreadable", "error": str(error)})
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        headings = ("name", "method", "model", "condition", "step", "held out", "changed")
        print_table(headings, fitting([_run_row(row) for row in rows], headings, stdout().width))


def _run_row(row: dict[str, Any]) -> list[str | Text]:
    condition = row["condition"]
    total, step = row.get("total_steps"), row.get("step")
    return [
        row["name"],
        row.get("method") or UNKNOWN,
        row.get("model") or UNKNOWN,
        Text(condition, style=CONDITION_STYLES.get(condition, "")),
        UNKNOWN if step is None else f"{step:,}/{total:,}" if total else f"{step:,}",
        headline(row.get("metrics") or {}),
        ago(time.time() - row["changed"]) if "changed" in row else UNKNOWN,
    ]


def fitting(rows: list[list[str | Text]], headings: Sequence[str], width: int) -> list[list[str | Text]]:
    """The list of runs in so many columns: where it is too wide, cells get shorter, and none is left out.

    First goes the second metric; then what a name says twice, down to a part that still means the run; then
    the ends of long models.
    """
    ways: list[tuple[int, Callable[[str], str]]] = [(5, lambda text: text.split(",")[0]), (0, short_name)]
    for column, shorter in ways:
        if _width(rows, headings) <= width:
            return rows
        rows = [[*row[:column], shorter(str(row[column])), *row[column + 1 :]] for row in rows]
    for column, least in ((2, 6), (0, 11)):
        longest = max(len(str(row[column])) for row in rows)
        room = max(least, longest - max(0, _width(rows, headings) - width))
        rows = [[*row[:column], _end_cut(str(row[column]), room), *row[column + 1 :]] for row in rows]
    return rows


def _width(rows: Sequence[Sequence[str | Text]], headings: Sequence[str]) -> int:
    columns = zip(headings, *rows, strict=True)
    return sum(max(len(str(cell)) for cell in column) + 2 for column in columns) - 2


def _end_cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def short_name(name: str) -> str:
    """A part of a run's usual name that is enough to mean it: month and day, time, and number if it has one.

    `mlx-align runs show 0102-030900` finds 20260102-030900-orpo-tiny-chat.
    """
    usual = re.fullmatch(r"\d{4}(\d{4}-\d{6})-.+", name)
    return usual[1] if usual else name


def headline(metrics: dict[str, Any]) -> str:
    """The metrics that say most, shortly."""
    from mlx_align_cli.display.facts import measured
    from mlx_align_cli.display.text import metric

    best = ("accuracy", "margin", "reward", "exact")
    keys = [key for key in best if metrics.get(key) is not None] or ["loss"]
    shown = [f"{key} {metric(key, measured(metrics, key))}" for key in keys if metrics.get(key) is not None]
    return ", ".join(shown) or UNKNOWN


def print_keys(keys: Iterable[Key], width: int) -> None:
    """Configuration keys: name, values and default on one line, and below it what the key does."""
    for key in keys:
        text = Text.assemble(
            (key.name, "bold"), f"  {clean(key.type)}", (f"  default {_default(key)}", "cyan")
        )
        stdout().print(text, soft_wrap=True)
        for line in textwrap.wrap(clean(key.description), width - 4):
            print(f"    {line}")


def _default(key: Key) -> str:
    return clean(value_text(key.default)).strip("()")


def print_run(run: RunDirectory, *, as_json: bool) -> None:
    """One run in full."""
    from mlx_align_cli.display.describe import describe, describe_json

    if as_json:
        print(json.dumps(describe_json(run), indent=2))
        return
    console = stdout()
    width = min(console.width, 120)
    console.print(describe(run, width), width=width)
