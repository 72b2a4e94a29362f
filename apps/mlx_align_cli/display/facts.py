"""What the displays show of a run, as plain values computed from its state. Pure functions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_align.events import Alert, Eval, RunFinished, RunState, Sample, Step
from mlx_align_cli.naming import short_path

LABELS = {
    "loss": "loss",
    "margin": "margin",
    "accuracy": "accuracy",
    "chosen_reward": "chosen reward",
    "rejected_reward": "rejected reward",
    "kl": "KL from start",
}
"""The metrics that are shown, in this order, and what they are called."""
RECENT = 10
"""Training values are means over so many steps: those of a single batch jump about."""


@dataclass(frozen=True)
class MetricRow:
    """One metric: while training, and on held-out rows before training and now (or at the best step)."""

    key: str
    label: str
    train: float | None
    before: float | None
    now: float | None
    course: tuple[float | None, ...]


@dataclass(frozen=True)
class Comparison:
    """What the model said to one held-out prompt before training, and what it says now."""

    prompt: str
    before: str
    after: str
    before_cut: bool = False
    after_cut: bool = False


@dataclass(frozen=True)
class Pace:
    """How fast it goes: tokens a second, seconds so far, and seconds to go (None: not known yet)."""

    tokens_per_second: float | None
    elapsed: float
    remaining: float | None


def total_steps(state: RunState) -> int:
    """All steps of the run, 0 while unknown."""
    return state.started.total_steps if state.started else 0


def train_value(step: Step, key: str) -> float | None:
    """A step's metric; the loss stands beside the others."""
    return step.loss if key == "loss" else step.metrics.get(key)


def metric_rows(state: RunState) -> list[MetricRow]:
    """One row for each metric that the run has."""
    steps, evals = list(state.steps), list(state.evals)
    first, now = (evals[0], shown_eval(state)) if evals else (None, None)
    seen = {key for e in evals for key in e.metrics} | ({"loss", *steps[-1].metrics} if steps else set())
    rows = []
    for key, label in LABELS.items():
        if key not in seen:
            continue
        course = tuple(train_value(s, key) for s in steps)
        later = now.metrics.get(key) if now and now is not first else None
        before = first.metrics.get(key) if first else None
        rows.append(MetricRow(key, label, mean(course[-RECENT:]), before, later, course))
    return rows


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that were measured."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def shown_eval(state: RunState) -> Eval | None:
    """The evaluation that describes the adapter: the best one's once the run has finished, else the last."""
    step = kept_step(state)
    return next((e for e in reversed(list(state.evals)) if e.step == step), state.evals.last())


def kept_step(state: RunState) -> int:
    """The step whose weights are the run's adapter."""
    if isinstance(state.end, RunFinished) and state.end.best_step is not None:
        return state.end.best_step
    return state.step


def comparisons(state: RunState, limit: int = 5) -> list[Comparison]:
    """The answers at step 0 beside those of the adapter; empty until there are both."""
    samples = list(state.samples)
    if not samples or samples[0].step != 0:
        return []
    after = _sample_for(samples, kept_step(state))
    if after is samples[0]:
        return []
    answers = {c.prompt: c for c in after.completions}
    pairs = [(old, answers[old.prompt]) for old in samples[0].completions if old.prompt in answers]
    return [
        Comparison(old.prompt, old.completion, new.completion, not old.finished, not new.finished)
        for old, new in pairs[:limit]
    ]


def _sample_for(samples: list[Sample], step: int) -> Sample:
    return next((s for s in reversed(samples) if s.step == step), samples[-1])


def pace(state: RunState, now: float | None = None) -> Pace:
    """Speed over the last steps, and the time to go at the mean speed of this attempt."""
    if state.started is None:
        return Pace(None, 0.0, None)
    now = state.last_t if now is None or state.end is not None else max(now, state.last_t)
    elapsed = max(0.0, now - state.started.t)
    recent = [s for s in state.steps if s.attempt == state.attempt]
    seconds = sum(s.seconds for s in recent[-20:])
    speed = sum(s.tokens for s in recent[-20:]) / seconds if seconds > 0 else None
    if len(recent) < 3 or state.end is not None:
        return Pace(speed, elapsed, None)
    each = (recent[-1].t - recent[0].t) / (len(recent) - 1)
    remaining = (total_steps(state) - state.step) * each - (now - recent[-1].t)
    return Pace(speed, elapsed, max(0.0, remaining))


def recent_alerts(state: RunState, limit: int = 3) -> list[Alert]:
    """The newest alerts of this attempt, those that repeat a code shown once."""
    newest: dict[str, Alert] = {}
    for alert in state.alerts:
        newest.pop(alert.code, None)
        newest[alert.code] = alert
    return list(newest.values())[-limit:]


def generate_model(env: Mapping[str, object]) -> str:
    """What `mlx_lm.generate --model` takes: the hub's name for a hub model, else the folder."""
    if env.get("commit") and env.get("model"):
        return str(env["model"])
    return short_path(Path(str(env.get("model_folder") or env.get("model") or ".")))


def next_commands(run: str, adapter: Path, env: Mapping[str, object], prompt: str) -> list[str]:
    """What to type after a run has finished, ready for a shell, as `run` is already."""
    quoted = shlex.quote(" ".join(prompt.split()))
    mlx_lm = ["mlx_lm.generate", "--model", generate_model(env), "--adapter-path", short_path(adapter)]
    return [
        f"mlx-align generate {run} {quoted}",
        f"{shlex.join(mlx_lm)} --prompt {quoted}",
        f"mlx-align runs show {run}",
    ]
