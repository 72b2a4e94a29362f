"""What the displays show of a run, as plain values computed from its state. Pure functions."""

from __future__ import annotations

import shlex
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_align.events import Alert, Eval, RunFinished
from mlx_align.run_state import RunState, Steps
from mlx_align_cli.display.text import size
from mlx_align_cli.naming import program, short_path

LABELS = {
    "reward": "reward",
    "exact": "right answers",
    "no_signal": "without signal",
    "length": "answer length",
    "truncated": "cut off",
    "unscored": "not scored",
    "loss": "loss",
    "margin": "margin",
    "accuracy": "accuracy",
    "chosen_reward": "chosen reward",
    "rejected_reward": "rejected reward",
    "kl": "KL from start",
    "entropy": "entropy",
    "clip_low": "clipped below",
    "clip_high": "clipped above",
}
"""The metrics that are shown, in this order, and what they are called."""
SINGLE = "reward/"
"""How the metric of one of several rewards begins; its name follows."""
LEFT_OUT = {"unscored": 0.0}
"""What an evaluation of answers leaves out, and the value that this means."""
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
class Pace:
    """How fast it goes: tokens a second, seconds so far, and seconds to go (None: not known yet)."""

    tokens_per_second: float | None
    elapsed: float
    remaining: float | None


def labels(keys: Iterable[str]) -> dict[str, str]:
    """The metrics among these that are shown, in their order, and what they are called."""
    present = set(keys)
    found = {key: label for key, label in LABELS.items() if key in present}
    found |= {key: key for key in sorted(present, key=len) if key.startswith("pass@")}
    return found | {key: key.removeprefix(SINGLE) for key in sorted(present) if key.startswith(SINGLE)}


def total_steps(state: RunState) -> int:
    """All steps of the run, 0 while unknown."""
    return state.started.total_steps if state.started else 0


def measured(metrics: Mapping[str, float | None], key: str) -> float | None:
    """A metric as it is shown. No accuracy where every margin is exactly 0: none is right, none is wrong."""
    if key == "accuracy" and metrics.get("margin") == 0.0:
        return None
    return metrics.get(key, LEFT_OUT.get(key) if "reward" in metrics else None)


def course(steps: Steps, key: str, start: int = 0) -> list[float | None]:
    """A metric's values at the steps from a place on; the loss stands beside the others."""
    if key == "loss":
        return steps.column("loss", start)
    values = steps.metric(key, start)
    if key != "accuracy":  # the one that `measured` looks at more closely
        return values
    margins = steps.metric("margin", start)
    return [measured({key: v, "margin": m}, key) for v, m in zip(values, margins, strict=True)]


def metric_rows(state: RunState) -> list[MetricRow]:
    """One row for each metric that the run has."""
    evals, newest = list(state.evals), state.steps.last()
    first, now = (evals[0], shown_eval(state)) if evals else (None, None)
    seen = {key for e in evals for key in e.metrics} | ({"loss", *newest.metrics} if newest else set())
    rows = []
    for key, label in labels(seen).items():
        values = course(state.steps, key)
        compared = now is not first or isinstance(state.end, RunFinished)
        later = measured(now.metrics, key) if now and compared else None
        before = measured(first.metrics, key) if first else None
        rows.append(MetricRow(key, label, mean(values[-RECENT:]), before, later, tuple(values)))
    return rows


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that were measured."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def shown_eval(state: RunState) -> Eval | None:
    """The evaluation that describes the adapter: the best one's once the run has finished, else the last."""
    step = kept_step(state)
    return next((e for e in reversed(list(state.evals)) if e.step == step), state.evals.last())


def changes_nothing(state: RunState) -> bool:
    """Whether the run has finished and no evaluation was better than the start."""
    return isinstance(state.end, RunFinished) and state.end.best_step == 0


def kept_step(state: RunState) -> int:
    """The step whose weights are the run's adapter."""
    if isinstance(state.end, RunFinished) and state.end.best_step is not None:
        return state.end.best_step
    return state.step


def pace(state: RunState, now: float | None = None) -> Pace:
    """Speed over the last steps, time so far in all attempts, and time to go at this attempt's mean speed."""
    if state.started is None:
        return Pace(None, 0.0, None)
    now = state.last_t if now is None or state.end is not None else max(now, state.last_t)
    elapsed = max(0.0, now - state.started.t) + _earlier_seconds(state)
    steps, first = state.steps, _earlier_steps(state)
    recent = max(first, len(steps) - 20)
    seconds = sum(steps.column("seconds", recent))
    speed = sum(steps.column("tokens", recent)) / seconds if seconds > 0 else None
    if len(steps) - first < 3 or state.end is not None:
        return Pace(speed, elapsed, None)
    each = (steps[-1].t - steps[first].t) / (len(steps) - first - 1)
    remaining = (total_steps(state) - state.step) * each - (now - steps[-1].t)
    return Pace(speed, elapsed, max(0.0, remaining))


def _earlier_steps(state: RunState) -> int:
    """How many steps are of earlier attempts."""
    return bisect_left(state.steps, state.attempt, key=lambda step: step.attempt)


def _earlier_seconds(state: RunState) -> float:
    """What earlier attempts did of that which still counts."""
    steps: list[float] = state.steps.column("seconds")[: _earlier_steps(state)]
    evals = [e for e in state.evals if e.attempt != state.attempt]
    return sum(steps) + sum(e.seconds for e in evals)


def sampling_speed(state: RunState) -> float | None:
    """Tokens a second while the newest rollout was sampled; None where nothing is."""
    rollout = state.rollouts.last()
    return None if rollout is None or rollout.seconds <= 0 else rollout.tokens / rollout.seconds


def computed(state: RunState) -> str:
    """How much of the batches' shapes was padding, and how many graphs were traced for it."""
    padded = sum(state.steps.column("padded"))
    waste = 1 - sum(state.steps.column("tokens")) / padded if padded else 0.0
    words = [f"{padded:,} tokens, {waste:.0%} of them padding"] if padded else ["nothing yet"]
    traces = state.memory.traces if state.memory else 0
    return ", ".join(words + ([f"{traces} traces"] if traces else []))


def memory(state: RunState) -> str:
    """What was planned before the run, and the most it has used."""
    plan, use = state.plan, state.memory
    words = []
    if plan is not None:
        of = f" of {size(plan.available)}" if plan.available else ""
        words.append(f"planned {size(plan.total)}{of} ({plan.verdict})")
    if use is not None and use.peak:
        words.append(f"at most {size(use.peak)} used")
    return ", ".join(words) or "not planned"


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
    mlx_lm = shlex.join(["--model", generate_model(env), "--adapter-path", short_path(adapter)])
    return [
        f"{program()} generate {run} {quoted}",
        f"{program()} generate {run} {quoted} --base",
        f"{program()} export {run} --to gguf",
        f"{program('mlx_lm.generate')} {mlx_lm} --prompt {quoted}",
        f"{program()} runs show {run}",
    ]
