"""The live screen: pure functions from a run's state to Rich renderables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlx_align.events import Alert, RunFailed, RunFinished, RunStopped
from mlx_align.run_state import RunState
from mlx_align_cli.display import facts
from mlx_align_cli.display.answers import telling
from mlx_align_cli.display.text import (
    clean,
    duration,
    few,
    metric,
    number,
    one_line,
    plural,
    size,
    sparkline,
)  # fmt: skip

HINT = "Ctrl-C saves a checkpoint and stops"
BETTER_WHEN = {"loss": -1, "margin": 1, "accuracy": 1, "reward": 1, "exact": 1}
"""Metrics with a good direction; rewards and KL have none of their own."""
STYLES = {
    "loss": "yellow", "margin": "green", "accuracy": "cyan", "chosen_reward": "blue", "reward": "green",
    "exact": "cyan",
}  # fmt: skip
EDGES = {"finished": "green", "stopped": "yellow", "failed": "red"}
MARKS = {"info": ("i", "blue"), "warning": ("!", "yellow"), "error": ("✗", "red")}
TALL, SHORT = 28, 22
"""Terminal heights: with room for an example answer; too low for empty lines."""
FEWEST, AROUND = 6, 20
"""Metrics that are shown in any case, and the lines that a screen has around them."""


def screen(
    state: RunState,
    name: str,
    *,
    width: int,
    height: int = TALL,
    now: float | None = None,
    notice: str = HINT,
) -> RenderableType:
    """The whole screen of one run.

    Args:
        state: the run so far.
        name: the run's name.
        width: columns of the terminal.
        height: its lines.
        now: seconds since the epoch, for times that go on between events; None: the last event's.
        notice: what the lower edge says.
    """
    parts: list[list[RenderableType]] = [[header(state)], [progress(state, now)]]
    if len(state.steps) or len(state.evals):
        parts += [[metrics(state, width - 4, rows=max(FEWEST, height - AROUND))], [vitals(state, width - 4)]]
    if height >= TALL and state.end is None:
        parts.append(extremes(state, width - 4) or example(state, width - 4))
    parts.append([alert_line(alert) for alert in facts.recent_alerts(state)])
    gap = [Text()] if height >= SHORT else []
    body = [line for part in parts if part for line in [*gap, *part]]
    method = state.started.method.upper() if state.started else "mlx-align"
    title = Text.assemble((f" {clean(method)} ", "bold reverse cyan"), f" {one_line(name, width - 20)} ")
    edge = "yellow" if facts.changes_nothing(state) else EDGES.get(state.status, "cyan")
    subtitle = Text(f" {one_line(notice, width - 8)} ", style="dim") if state.end is None and notice else None
    return Panel(
        Group(*body[len(gap) :]), title=title, title_align="left", subtitle=subtitle, subtitle_align="right",
        border_style=edge, width=width, padding=(0, 1),
    )  # fmt: skip


def header(state: RunState) -> RenderableType:
    """What is trained, on what, where."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=2, no_wrap=True, overflow="ellipsis")
    start = state.started
    if start is None:
        grid.add_row("engine", "starting", "", "")
        return grid
    rows = f"{plural(start.train_rows, 'row')}, {start.valid_rows:,} held out"
    grid.add_row("model", Text(clean(start.model), style="bold"), "device", Text(clean(start.device)))
    grid.add_row("data", _tail(start.data), "trains", plural(start.trainable_parameters, "parameter"))
    resumed = f"from step {start.resumed_from:,}" if start.resumed_from is not None else ""
    grid.add_row("", Text(rows, style="dim"), "resumed" if resumed else "", resumed)
    return grid


def _tail(path: str, limit: int = 44) -> Text:
    text = clean(path).replace("\n", " ")
    return Text(text if len(text) <= limit else "…" + text[1 - limit :])


def progress(state: RunState, now: float | None) -> RenderableType:
    """The phase, a bar, the count and the times."""
    phase = state.phase
    total, done = facts.total_steps(state), state.step
    before = phase is not None and phase.name in ("loading", "preparing", "reference") and state.end is None
    if before and phase is not None:
        total, done = phase.total, phase.done
    pace = facts.pace(state, now)
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True, min_width=16)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(
        total=total or None,
        completed=done,
        pulse=not total,
        complete_style="cyan",
        pulse_style="cyan",
        finished_style="green",
    )
    count = f"{done:,}/{total:,}" if total else ""
    left = f"{duration(pace.remaining)} left" if pace.remaining is not None else ""
    times = "  ".join(part for part in (count, duration(pace.elapsed), left) if part)
    grid.add_row(Text(_phase_name(state), style="bold"), bar, times)
    return grid


def _phase_name(state: RunState) -> str:
    match state.end:
        case RunFinished():
            return "finished"
        case RunStopped():
            return "stopped"
        case RunFailed():
            return "failed"
    if state.phase is None:
        return "starting"
    detail = clean(state.phase.detail)
    counted = f"{state.phase.done:,}/{state.phase.total:,}" if state.phase.total else ""
    extra = counted if state.phase.name in ("evaluating", "sampling", "scoring") else one_line(detail, 24)
    return f"{state.phase.name} {extra}".strip()


def metrics(state: RunState, width: int, rows: int) -> RenderableType:
    """The first so many metrics: in training, held out before and now, and their course."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim", width=width)
    table.add_column("", no_wrap=True, min_width=15)
    shown = facts.shown_eval(state)
    now = f"step {shown.step}" if shown and len(state.evals) > 1 else "now"
    for heading in ("\ntraining", "held out\nbefore", f"held out\n{now}"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=9)
    trend = width - 15 - 3 * 9 - 6
    table.add_column("\nover the steps so far", no_wrap=True, width=trend - 2)
    for row in facts.metric_rows(state)[:rows]:
        style = STYLES.get(row.key, "magenta")
        table.add_row(
            row.label,
            metric(row.key, row.train),
            Text(metric(row.key, row.before), style="dim"),
            Text(metric(row.key, row.now), style=f"bold {_verdict(row)}".strip()),
            Text(sparkline(row.course, trend - 2), style=style),
        )
    return table


def _verdict(row: facts.MetricRow) -> str:
    """Green for a metric that got better, red for one that got worse."""
    if row.now is None or row.before is None or row.now == row.before or row.key not in BETTER_WHEN:
        return ""
    return "green" if (row.now - row.before) * BETTER_WHEN[row.key] > 0 else "red"


def vitals(state: RunState, width: int) -> Text:
    """Learning rate, gradient norm, speed and memory on one line; what does not fit is left out whole."""
    parts = []
    last = state.steps.last()
    if last is not None:
        parts += [f"lr {last.learning_rate:.1e}", f"grad norm {number(last.grad_norm)}"]
    speed = facts.pace(state).tokens_per_second
    if speed is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    sampling = facts.sampling_speed(state)
    if sampling is not None:
        parts.append(f"sampling {sampling:,.0f} tokens/s")
    if state.memory is not None:
        peak, limit = state.memory.peak, state.memory.limit
        parts.append(f"memory {size(peak)}" + (f" of {size(limit)}" if peak > limit / 3 > 0 else ""))
    if state.best is not None and len(state.evals) > 1:
        parts.append(f"best step {state.best.step:,}")
    skipped = sum(state.steps.column("skipped"))
    if skipped:
        parts.append(f"{plural(skipped, 'update')} skipped")
    while len(parts) > 1 and len(" · ".join(parts)) > width:
        parts.pop()
    return Text(" · ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")


def example(state: RunState, width: int) -> list[RenderableType]:
    """The newest answer to one held-out prompt."""
    sample = state.samples.last()
    if sample is None or not sample.completions:
        return []
    one = sample.completions[min(telling(state), len(sample.completions) - 1)]
    when = "before training" if sample.step == 0 else f"after step {sample.step:,}"
    return [
        Text.assemble(("asked  ", "dim"), one_line(one.prompt, width - 8), no_wrap=True),
        Text.assemble(
            ("says   ", "dim"), one_line(one.completion, width - 28), (f"  {when}", "dim"), no_wrap=True
        ),
    ]


def extremes(state: RunState, width: int) -> list[RenderableType]:
    """The best and the worst completion of the newest rollout."""
    rollout = state.rollouts.last()
    if rollout is None:
        return []
    lines: list[RenderableType] = []
    for name, one in (("best   ", rollout.best), ("worst  ", rollout.worst)):
        if one is not None:
            said = one_line(f"{one.prompt} → {one.completion}", width - 18)
            reward = (f"  reward {number(one.total)}", "dim")
            lines.append(Text.assemble((name, "dim"), said, reward, no_wrap=True))
    return lines


def alert_line(alert: Alert) -> Text:
    """One alert."""
    mark, style = MARKS[alert.level]
    where = f" (step {alert.step:,})" if alert.step else ""
    rows = f" — {few(alert.rows)}" if alert.rows else ""
    return Text.assemble((f"{mark} ", f"bold {style}"), (clean(f"{alert.message}{where}{rows}"), style))
