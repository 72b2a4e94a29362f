"""The display for logs, pipes and simple terminals: short lines on stderr."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO

from mlx_align.events import Alert, Checkpoint, Eval, Event, Phase, Plan, Rollout, RunStarted, Step
from mlx_align.run_state import RunState
from mlx_align.runs import RunDirectory
from mlx_align_cli.display import facts
from mlx_align_cli.display.answers import comparisons, summary
from mlx_align_cli.display.base import Display
from mlx_align_cli.display.report import PROMPTS, next_lines, outcome
from mlx_align_cli.display.text import clean, duration, few, metric, number, one_line, plural

WIDTH = 100
PARTS = 10
"""Training is reported about so many times."""
STEP_METRICS = {
    "margin": "margin",
    "accuracy": "accuracy",
    "reward": "reward",
    "length": "length",
    "truncated": "cut off",
    "no_signal": "no signal",
    "kl": "KL",
    "entropy": "entropy",
    "clip_low": "clipped below",
    "clip_high": "above",
}
"""The metrics on a step's line, and what they are called there."""


class PlainDisplay(Display):
    """One line for each evaluation, checkpoint, alert and tenth of the way."""

    tells_adapter = True

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._phase = ""

    def show(self, event: Event, state: RunState) -> None:
        """Write the line that the event deserves, if it deserves one."""
        for line in self._lines(event, state):
            self._say(line)

    def notice(self, text: str) -> None:
        """Write a line."""
        with suppress(RuntimeError):  # a signal that arrives while the stream is being written
            self._say(text)

    def end(self, run: RunDirectory, state: RunState) -> None:
        """Before and after, and what to type next."""
        for line in [*_answer_lines(state), *_measured_lines(state), outcome(state).plain]:
            self._say(line)
        for line in next_lines(run, state, WIDTH):
            self._say(line)

    def _say(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def _lines(self, event: Event, state: RunState) -> list[str]:
        match event:
            case RunStarted():
                return [started_line(event)]
            case Phase() if event.name != self._phase and event.name in ("loading", "preparing", "reference"):
                self._phase = event.name
                return [clean(f"{event.name}: {event.detail}" if event.detail else event.name)]
            case Plan():
                return [f"memory: {facts.memory(state)}"]
            case Step() if event.skipped or _is_due(event.step, facts.total_steps(state)):
                return [step_line(event, state)]
            case Rollout() if _is_due(event.step, facts.total_steps(state)):
                return rollout_lines(event, state)
            case Eval():
                shown = [
                    f"{label} {metric(k, facts.measured(event.metrics, k))}"
                    for k, label in facts.labels(event.metrics).items()
                ]
                return [f"eval at step {event.step:,}: {', '.join(shown)}{' (best)' if event.best else ''}"]
            case Checkpoint():
                return [f"saved {event.path}"]
            case Alert():
                rows = f" ({few(event.rows)})" if event.rows else ""
                return [clean(f"{event.level}: {event.message}{rows}")]
        return []


def _answer_lines(state: RunState) -> list[str]:
    pairs = comparisons(state)
    lines = []
    for pair in pairs[:PROMPTS]:
        lines.append(f"prompt: {one_line(pair.prompt, WIDTH - 8)}")
        lines.append(f"  before: {one_line(pair.before, WIDTH - 10)}")
        lines.append(f"  after step {pair.step:,}: {one_line(pair.after, WIDTH - 20)}")
    return [*lines, *summary(state, pairs, min(PROMPTS, len(pairs)))] if pairs else []


def _measured_lines(state: RunState) -> list[str]:
    shown = facts.shown_eval(state)
    return [
        f"held out {row.label}: {metric(row.key, row.before)} -> {metric(row.key, row.now)}"
        f" after step {shown.step:,}"
        for row in facts.metric_rows(state)
        if shown and row.now is not None and not facts.changes_nothing(state)
    ]


def _is_due(step: int, total: int) -> bool:
    each = max(1, round(total / PARTS)) if total else 10
    return step == 1 or step % each == 0 or step == total


def started_line(event: RunStarted) -> str:
    """What runs where."""
    resumed = f", resumed from step {event.resumed_from:,}" if event.resumed_from is not None else ""
    return clean(
        f"{event.method} on {event.model} with {event.data}: {plural(event.train_rows, 'row')} and"
        f" {event.valid_rows:,} held out, {plural(event.total_steps, 'step')},"
        f" {plural(event.trainable_parameters, 'trainable parameter')}, {event.device}{resumed}"
    )


def rollout_lines(event: Rollout, state: RunState) -> list[str]:
    """What was sampled, with the best and the worst of it."""
    reward, speed = event.reward, facts.sampling_speed(state)
    parts = [f"reward {number(reward.mean)} ± {number(reward.std)}"]
    if len(event.rewards) > 1:
        parts += [f"{name} {number(one.mean)} ± {number(one.std)}" for name, one in event.rewards.items()]
    parts += [f"spread {number(event.spread)}", f"longest {event.length_max:,} tokens"]
    parts += [f"{plural(event.refilled, 'group')} replaced"] if event.refilled else []
    parts += [f"{speed:,.0f} tokens/s"] if speed is not None else []
    lines = [clean(f"rollout {event.number + 1:,}, {event.completions:,} completions: {', '.join(parts)}")]
    for name, one in (("best", event.best), ("worst", event.worst)):
        if one is not None:
            said = one_line(f"{one.prompt} -> {one.completion}", WIDTH - 24)
            lines.append(f"  {name} ({number(one.total)}): {said}")
    return lines


def step_line(event: Step, state: RunState) -> str:
    """Where training stands."""
    pace = facts.pace(state)
    keys = [k for k in STEP_METRICS if k in event.metrics]
    parts = [
        f"loss {number(event.loss)}",
        *(f"{STEP_METRICS[k]} {metric(k, facts.measured(event.metrics, k))}" for k in keys),
    ]
    if pace.tokens_per_second is not None:
        parts.append(f"{pace.tokens_per_second:,.0f} tokens/s")
    if pace.remaining is not None and event.step < facts.total_steps(state):
        parts.append(f"{duration(pace.remaining)} left")
    skipped = " (update skipped: not finite)" if event.skipped else ""
    return f"step {event.step:,}/{facts.total_steps(state):,}: {', '.join(parts)}{skipped}"
