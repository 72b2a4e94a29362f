"""Is this run well? What a person who has seen many runs would say, and what to do. Pure functions.

The thresholds are rules of thumb: a run that learns says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlx_align.events import Eval, RunState, Step
from mlx_align_cli.display.text import duration, number, percent

RECENT = 20
"""Updates that "now" means."""
SKIPPED = 3
"""So many updates of the recent ones that were not finite are no accident."""
RISE = 1.5
"""The recent loss is this many times the best that it had been: it diverges."""
OVERFIT = 1.05
"""The held-out loss is this many times its best."""
CHANCE = 0.05
"""An accuracy this near to one half is no better than guessing."""
SIGNALLESS = 0.8
"""At this share of groups with equal rewards, hardly anything is learnt."""
LONGER = 1.5
"""Answers have become this many times as long."""
CUT_OFF = 0.3
"""At this share of answers that are cut off, rewards say little."""
FULL = 0.95
"""Share of the memory limit above which the next long row may be too much."""
SILENT_SECONDS = 120.0
"""An engine that lives gives a sign every ten seconds."""


@dataclass(frozen=True)
class Finding:
    """One thing to say: `title` in a few words, `advice` in a sentence."""

    level: Literal["good", "warning", "error"]
    title: str
    advice: str


Check = Callable[[RunState], Finding | None]


def findings(state: RunState, *, now: float | None = None, running: bool = True) -> list[Finding]:
    """Everything that is odd, worst first; one that says "healthy" where nothing is, none before training.

    Args:
        state: the run.
        now: seconds since the epoch, to notice silence; None: do not.
        running: whether an engine is at work.
    """
    found = [finding for check in CHECKS if (finding := check(state)) is not None]
    if running and now is not None and (quiet := silent(state, now)) is not None:
        found.append(quiet)
    found.sort(key=lambda finding: finding.level != "error")
    if not found and len(state.steps) >= RECENT:
        return [Finding("good", "healthy", "Nothing odd in loss, gradient, evaluation or memory.")]
    return found


def diverging(state: RunState) -> Finding | None:
    """Whether updates are not finite, or the loss has left the ground that it had won."""
    recent = _last(state, RECENT)
    skipped = sum(step.skipped for step in recent)
    if skipped >= SKIPPED:
        return Finding(
            "error",
            "diverging",
            f"{skipped} of the last {len(recent)} updates were not finite: "
            "lower optim.lr, or optim.max_grad_norm.",
        )
    if _samples(state) or len(state.steps) < 4 * RECENT:  # the loss of GRPO says nothing by its size
        return None
    means = [_mean(step.loss for step in window) for window in _windows(state, RECENT)]
    known = [mean for mean in means if mean is not None]
    if len(known) < 3 or known[-1] <= RISE * min(known[:-1]) or known[-1] - min(known[:-1]) < 0.1:
        return None
    return Finding(
        "error",
        "diverging",
        f"The loss was {number(min(known[:-1]))} and is {number(known[-1])}: lower optim.lr.",
    )


def overfitting(state: RunState) -> Finding | None:
    """Whether the held-out loss rises while that of training falls."""
    evals = [e for e in state.evals if e.metrics.get("loss") is not None]
    if len(evals) < 4 or _samples(state):
        return None
    losses = [e.metrics["loss"] or 0.0 for e in evals]
    best = losses.index(min(losses))
    rising = best <= len(losses) - 3 and losses[-1] > OVERFIT * losses[best]
    early = _mean(s.loss for s in state.steps if s.step <= evals[best].step)
    late = _mean(s.loss for s in _last(state, RECENT))
    if not rising or early is None or late is None or late >= early:
        return None
    return Finding(
        "warning",
        "overfitting",
        f"The held-out loss was best at step {evals[best].step:,} ({number(losses[best])}, now "
        f"{number(losses[-1])}): stop, take fewer epochs or a smaller adapter.rank.",
    )


def no_signal(state: RunState) -> Finding | None:
    """Whether there is nothing to learn from."""
    if _samples(state):
        recent = list(state.rollouts)[-5:]
        share = sum(r.no_signal for r in recent) / len(recent)
        if len(recent) < 3 or share < SIGNALLESS:
            return None
        return Finding(
            "warning",
            "no signal",
            f"In {percent(share)} of the groups all answers are worth the same: "
            "easier or harder prompts, larger groups, a finer reward.",
        )
    done = state.step / state.started.total_steps if state.started and state.started.total_steps else 0.0
    accuracy = _mean(_metric(_last(state, 2 * RECENT), "accuracy"))
    if done < 0.3 or len(state.steps) < 2 * RECENT or accuracy is None or abs(accuracy - 0.5) > CHANCE:
        return None
    return Finding(
        "warning",
        "no signal",
        f"It tells chosen from rejected in {percent(accuracy)} of the pairs, no better than "
        "guessing: raise optim.lr, or look whether the data says what is better.",
    )


def longer(state: RunState) -> Finding | None:
    """Whether answers get longer and longer, or are cut off."""
    rollouts = list(state.rollouts)
    if len(rollouts) < 10:
        return None
    first, last = (_mean(r.length_mean for r in part) or 0.0 for part in (rollouts[:5], rollouts[-5:]))
    cut = _mean(r.truncated for r in rollouts[-5:]) or 0.0
    if cut >= CUT_OFF:
        return Finding(
            "warning",
            "answers cut off",
            f"{percent(cut)} of the answers reach sampling.max_tokens: raise it, or reward short answers.",
        )
    if first <= 0 or last < LONGER * first:
        return None
    return Finding(
        "warning",
        "length creeps up",
        f"Answers had {first:.0f} tokens and have {last:.0f}: see the samples; "
        "a length reward or method.beta > 0 holds them back.",
    )


def both_less_likely(state: RunState) -> Finding | None:
    """Whether the margin grows only because the rejected answers fall faster than the chosen ones."""
    first, last = _ends(list(state.evals), "chosen_reward")
    if first is None or last is None or state.started is None or state.started.method not in ("dpo", "orpo"):
        return None
    margins = _ends(list(state.evals), "margin")
    fallen = first - last
    if fallen < 1.0 or None in margins or (margins[1] or 0.0) <= (margins[0] or 0.0):
        return None
    return Finding(
        "warning",
        "chosen answers fall too",
        f"The chosen reward fell from {number(first)} to {number(last)}: the "
        "model moves away from both answers. A larger method.beta or fewer steps help.",
    )


def memory_full(state: RunState) -> Finding | None:
    """Whether the next long row may be too much."""
    memory = state.memory
    if memory is None or not memory.limit or memory.peak < FULL * memory.limit:
        return None
    return Finding(
        "warning",
        "memory nearly full",
        f"{percent(memory.peak / memory.limit)} of the limit were used: a smaller "
        "train.batch_size, or backend.checkpointing=layers.",
    )


def silent(state: RunState, now: float) -> Finding | None:
    """Whether an engine that lives has said nothing for long."""
    if not state.last_t or now - state.last_t < SILENT_SECONDS:
        return None
    return Finding(
        "error",
        "silent",
        f"The engine lives but has said nothing for {duration(now - state.last_t)}: see the log; "
        "stop it with s, it goes on from its last checkpoint.",
    )


CHECKS: tuple[Check, ...] = (diverging, overfitting, no_signal, longer, both_less_likely, memory_full)


def _samples(state: RunState) -> bool:
    return len(state.rollouts) > 0


def _last(state: RunState, count: int) -> list[Step]:
    steps = state.steps
    return [steps[n] for n in range(max(0, len(steps) - count), len(steps))]


def _windows(state: RunState, size: int) -> list[list[Step]]:
    """At most fifty windows of `size` steps, evenly spread, the last of them at the end."""
    steps, count = state.steps, len(state.steps)
    stride = max(size, count // 50)
    ends = range(count, size - 1, -stride)
    return [[steps[n] for n in range(end - size, end)] for end in reversed(ends)]


def _metric(steps: Sequence[Step], name: str) -> list[float | None]:
    return [step.metrics.get(name) for step in steps]


def _ends(evals: Sequence[Eval], name: str) -> tuple[float | None, float | None]:
    return (evals[0].metrics.get(name), evals[-1].metrics.get(name)) if len(evals) > 2 else (None, None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None
