"""One run in full: its origin, how it went, what it left, what it says."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mlx_align.config import TrainConfig
from mlx_align.events import RunFailed, RunFinished
from mlx_align.run_state import RunState
from mlx_align.runs import RunDirectory
from mlx_align_cli.display import facts
from mlx_align_cli.display.answers import comparisons
from mlx_align_cli.display.report import comparison_panel, next_lines
from mlx_align_cli.display.screen import alert_line
from mlx_align_cli.display.text import clean, duration, metric, plural
from mlx_align_cli.naming import short_path


def describe(run: RunDirectory, width: int) -> RenderableType:
    """The page that `runs show` prints."""
    state = run.state()
    parts: list[RenderableType] = [_origin(run, state)]
    if len(state.evals):
        parts += [Text(), _measured(state)]
    alerts = facts.recent_alerts(state, 5)
    if alerts:
        parts += [Text(), *(alert_line(alert) for alert in alerts)]
    pairs = comparisons(state)
    if pairs:
        parts += [Text(), comparison_panel(pairs, state, width)]
    parts += [Text(line) for line in next_lines(run, state, width, look_back=False)]
    return Group(*parts)


def _origin(run: RunDirectory, state: RunState) -> RenderableType:
    config, env = run.config(), run.env()
    condition = run.condition(state)
    length = plural(config.train.steps, "step") if config.train.steps else _epochs(config.train.epochs)
    commit = f" @ {str(env['commit'])[:12]}" if env.get("commit") else ""
    numbers = [f"{key}={value}" for key, value in config.method.hyperparameters.items()]
    shape = config.adapter
    rows = [
        ("run", run.name),
        ("folder", short_path(run.path)),
        ("condition", f"{condition}, step {state.step:,} of {_total(state)}"),
        ("method", " ".join([config.method.name, *numbers])),
        ("model", f"{env.get('model', config.model.path)}{commit}"),
        ("data", str(env.get("data", config.data.path))),
        ("adapter", f"{shape.type}, rank {shape.rank}, modules {_words(shape.modules)}"),
        ("training", f"{length}, {_portion(config.train)} an update,"
         f" {config.optim.name} lr {config.optim.lr:g}, seed {config.train.seed}"),
        ("time", f"{duration(facts.pace(state).elapsed)}, attempt {state.attempt}"),
        ("computed", facts.computed(state)),
        ("memory", facts.memory(state)),
        ("checkpoints", ", ".join(path.name for path in run.checkpoints().paths()) or "none"),
    ]  # fmt: skip
    if isinstance(state.end, RunFinished):
        nothing = "; it changes nothing" if facts.changes_nothing(state) else ""
        rows.append(("kept", f"step {facts.kept_step(state):,} in {short_path(run.adapter)}{nothing}"))
    if isinstance(state.end, RunFailed):
        rows.append(
            ("error", " · ".join(p for p in (state.end.message, state.end.where, state.end.hint) if p))
        )
    if condition == "crashed":
        rows.append(("error", f"the engine died without a last word; its log is {short_path(run.log)}"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, text in rows:
        grid.add_row(key, Text(clean(text)))
    return grid


def _portion(train: TrainConfig) -> str:
    if train.tokens_per_batch is not None:
        return f"up to {train.tokens_per_batch:,} x {train.accumulate} tokens"
    return f"{train.batch_size} x {train.accumulate} rows"


def _epochs(count: float | None) -> str:
    return f"{count or 0:g} epoch" + ("" if count == 1 else "s")


def _total(state: RunState) -> str:
    return f"{facts.total_steps(state):,}" if state.started else "?"


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _measured(state: RunState) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("held out", no_wrap=True)
    shown = facts.shown_eval(state)
    which = "kept" if isinstance(state.end, RunFinished) else "last"
    for heading in ("before", f"{which}, step {shown.step:,}" if shown else which):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in facts.metric_rows(state):
        if row.before is not None or row.now is not None:
            table.add_row(row.label, metric(row.key, row.before), metric(row.key, row.now))
    return table


def describe_json(run: RunDirectory) -> dict[str, Any]:
    """The same page for a program."""
    state = run.state()
    return {
        "name": run.name,
        "path": str(run.path.resolve()),
        "condition": run.condition(state),
        "pid": run.pid(),
        "step": state.step,
        "total_steps": facts.total_steps(state),
        "attempt": state.attempt,
        "config": run.config().model_dump(mode="json"),
        "env": run.env(),
        "evals": [event.model_dump(mode="json") for event in state.evals],
        "checkpoints": [str(path) for path in run.checkpoints().paths()],
        "adapter": str(run.adapter.resolve()) if run.adapter.is_dir() else None,
        "plan": state.plan.model_dump(mode="json") if state.plan else None,
        "alerts": [event.model_dump(mode="json") for event in state.alerts],
        "comparisons": [asdict(pair) for pair in comparisons(state)],
        "end": state.end.model_dump(mode="json") if state.end else None,
    }
