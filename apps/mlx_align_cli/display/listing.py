"""Tables on stdout: settings with their origins, the list of runs, one run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlx_align_cli.display.text import UNKNOWN, ago, clean

if TYPE_CHECKING:
    from mlx_align.runs import RunDirectory
    from mlx_align.settings import Resolved

UNBOUNDED, WIDE = 10_000, 110
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
    summary = run.summary()
    if "step" not in summary:
        summary = {**summary, **_from_log(run)}
    status = str(summary.get("status", "new"))
    if run.is_running():
        status = "running"
    elif status == "running":  # it has died, or said its last word to the log only
        status = run.condition(run.state())
    changed = (run.events if run.events.exists() else run.path).stat().st_mtime
    return {
        "name": run.name,
        "method": summary.get("method"),
        "model": summary.get("model") or run.env().get("model"),
        "condition": status,
        "step": summary.get("step", 0),
        "total_steps": summary.get("total_steps") or None,
        "metrics": summary.get("metrics") or {},
        "changed": changed,
        "path": str(run.path.resolve()),
    }


def _from_log(run: RunDirectory) -> dict[str, Any]:
    state = run.state()
    newest = state.evals.last()
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
        headings = ["name", "condition", "step", "held out", "changed"]
        wide = stdout().width >= WIDE
        if wide:
            headings[1:1] = ["method", "model"]
        print_table(headings, [_run_row(row, wide) for row in rows])


def _run_row(row: dict[str, Any], wide: bool) -> list[str | Text]:
    condition = row["condition"]
    age = ago(time.time() - row["changed"]) if "changed" in row else UNKNOWN
    total = row.get("total_steps")
    origin = [row.get("method") or UNKNOWN, row.get("model") or UNKNOWN] if wide else []
    return [
        row["name"],
        *origin,
        Text(condition, style=CONDITION_STYLES.get(condition, "")),
        f"{row.get('step', 0)}/{total}" if total else str(row.get("step", UNKNOWN)),
        headline(row.get("metrics") or {}, 2 if wide else 1),
        age,
    ]


def headline(metrics: dict[str, Any], count: int) -> str:
    """The metrics that say most, shortly."""
    from mlx_align_cli.display.text import metric

    keys = [key for key in ("accuracy", "margin") if metrics.get(key) is not None] or ["loss"]
    shown = [f"{key} {metric(key, metrics[key])}" for key in keys if metrics.get(key) is not None]
    return ", ".join(shown[:count]) or UNKNOWN


def print_run(run: RunDirectory, *, as_json: bool) -> None:
    """One run in full."""
    from mlx_align_cli.display.describe import describe, describe_json

    if as_json:
        print(json.dumps(describe_json(run), indent=2))
        return
    console = stdout()
    width = min(console.width, 120)
    console.print(describe(run, width), width=width)
