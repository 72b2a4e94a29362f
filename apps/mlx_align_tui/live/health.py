"""Is this run well? What a person who has seen many runs would say, and what to do. Pure functions.

The thresholds are rules of thumb: a run that learns says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from mlx_align.events import Eval, Step
from mlx_align.run_state import RunState
from mlx_align_cli.display.text import duration, number, percent
from mlx_align_tui.live.estimates import SURE, Estimate, estimate, known, roughness

RECENT = 20
"""Updates that "now" means."""
SKIPPED = 3
"""So many updates of the recent ones that were not finite are no accident."""
RISE = 1.5
"""The recent loss is this many times the best that it had been: it diverges."""
STRETCHES, READ = 16, 128
"""A run's past is looked at in fewer stretches than this, and of each at most so many updates."""
OVERFIT = 1.05
"""The held-out loss is this many times its best."""
EVALS = 3
"""Evaluations that are taken together, because one by itself may be lucky."""
CHANCE = 0.1
"""An accuracy that is surely so near to one half is hardly better than guessing."""
LATEST = 800
"""Updates, at most, that an accuracy is taken from."""
SIGNALLESS, SIGNAL = 0.8, 0.6
"""At this share of groups with equal rewards hardly anything is learnt; at the second there is enough."""
ROLLOUTS = 48
"""Rollouts, at most, that shares are taken from."""
LONGER = 1.5
"""Answers have become this many times as long."""
CUT_OFF, CUT = 0.3, 0.2
"""At this share of answers that are cut off, rewards say little; up to the second it is no matter."""
FULL = 0.95
"""Share of the memory limit above which the next long row may be too much."""
SILENT_SECONDS = 120.0
"""An engine that lives gives a sign every ten seconds."""


@dataclass(frozen=True)
class Finding:
    """One thing to say: `title` in a few words, `advice` in a sentence with keys as in `keymap.said`."""

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
    best = None if _samples(state) else _best(state)  # the loss of GRPO says nothing by its size
    now = estimate(step.loss for step in _last(state, 2 * RECENT))
    if best is None or now is None or not now.above(best):
        return None
    lost = max(RISE * best.mean, best.mean + 0.1)
    halves = [known(step.loss for step in part) for part in (_last(state, 2 * RECENT)[:RECENT], recent)]
    if any(not half or median(half) < lost for half in halves):  # a few hard rows raise a mean, not a median
        return None
    return Finding(
        "error",
        "diverging",
        f"The loss was {number(best.mean)} and is {number(now.mean)}: lower optim.lr.",
    )


def _best(state: RunState) -> Estimate | None:
    """The lowest loss of a stretch before the recent updates, None before there are stretches."""
    past, size = len(state.steps) - 2 * RECENT, 2 * RECENT
    while past >= STRETCHES * size:
        size *= 2  # longer stretches, so that their number makes none of them lucky
    stride = max(1, size // READ)
    starts, losses = range(0, past - size + 1, size), state.steps.column("loss")
    parts = (estimate(losses[start : start + size : stride]) for start in starts)
    found = [part for part in parts if part is not None]
    if not found:
        return None
    best, usual = min(found, key=lambda part: part.mean), median(part.error for part in found)
    return replace(best, error=max(best.error, usual))  # the lowest had luck, and looks surer than it is


def overfitting(state: RunState) -> Finding | None:
    """Whether the held-out loss rises while that of training falls."""
    evals = [e for e in state.evals if e.metrics.get("loss") is not None]
    losses = known(e.metrics["loss"] for e in evals)
    if len(losses) < 2 * EVALS or len(losses) < len(evals) or _samples(state):
        return None
    means = [sum(losses[n : n + EVALS]) / EVALS for n in range(len(losses) - EVALS + 1)]
    best = min(range(len(means) - EVALS), key=means.__getitem__)
    noise = SURE * roughness(losses) * math.sqrt(2 / EVALS)
    if min(losses[-EVALS:]) <= OVERFIT * means[best] or means[-1] - means[best] <= noise:
        return None
    steps = zip(state.steps.column("step"), state.steps.column("loss"), strict=True)
    early = estimate(loss for step, loss in steps if step <= evals[best + 1].step)
    late = estimate(s.loss for s in _last(state, 2 * RECENT))
    if early is None or late is None or not early.above(late):
        return None
    return Finding(
        "warning",
        "overfitting",
        f"The held-out loss was best about step {evals[best + 1].step:,} ({number(means[best])}, now "
        f"{number(means[-1])}): stop, take fewer epochs or a smaller adapter.rank.",
    )


def no_signal(state: RunState) -> Finding | None:
    """Whether there is nothing to learn from."""
    return _equal_rewards(state) if _samples(state) else _guessing(state)


def _equal_rewards(state: RunState) -> Finding | None:
    recent = state.rollouts.since(max(0, len(state.rollouts) - ROLLOUTS))
    groups = sum(r.prompts for r in recent)
    share = sum(r.no_signal * r.prompts for r in recent) / max(groups, 1)
    chance = math.sqrt(SIGNAL * (1 - SIGNAL) / max(groups, 1))
    if len(recent) < EVALS or share < SIGNALLESS or share - SIGNAL < SURE * chance:
        return None
    return Finding(
        "warning",
        "no signal",
        f"In {percent(share)} of the groups all answers are worth the same: "
        "easier or harder prompts, larger groups, a finer reward.",
    )


def _guessing(state: RunState) -> Finding | None:
    total = state.started.total_steps if state.started else 0
    latest = min(len(state.steps) // 2, LATEST)
    start = len(state.steps) - latest
    accuracy = estimate(state.steps.metric("accuracy", start))
    margin = estimate(state.steps.metric("margin", start))
    if not total or state.step < 0.3 * total or latest < 2 * RECENT or accuracy is None:
        return None
    learns = margin is not None and margin.mean > SURE * margin.error
    if learns or abs(accuracy.mean - 0.5) + SURE * accuracy.error > CHANCE:
        return None
    return Finding(
        "warning",
        "no signal",
        f"It tells chosen from rejected in {percent(accuracy.mean)} of the pairs, no better than "
        "guessing: raise optim.lr, or look whether the data says what is better.",
    )


def longer(state: RunState) -> Finding | None:
    """Whether answers get longer and longer, or are cut off."""
    return _cut_off(state) or _creeping(state)


def _cut_off(state: RunState) -> Finding | None:
    recent = state.rollouts.since(max(0, len(state.rollouts) - ROLLOUTS))
    cut = estimate(r.truncated for r in recent)
    if len(recent) < 10 or cut is None or cut.mean < CUT_OFF or cut.mean - SURE * cut.error < CUT:
        return None
    return Finding(
        "warning",
        "answers cut off",
        f"{percent(cut.mean)} of the answers reach sampling.max_tokens: raise it, or reward short answers.",
    )


def _creeping(state: RunState) -> Finding | None:
    size = min(len(state.rollouts) // 2, ROLLOUTS)
    if size < 10:
        return None
    newest = len(state.rollouts) - 1
    first = estimate(math.log(max(state.rollouts[n].length_mean, 1.0)) for n in range(size))
    last = estimate(math.log(max(state.rollouts[newest - n].length_mean, 1.0)) for n in range(size))
    if first is None or last is None or not last.above(first) or last.mean - first.mean < math.log(LONGER):
        return None
    return Finding(
        "warning",
        "length creeps up",
        f"Answers had {math.exp(first.mean):.0f} tokens and have {math.exp(last.mean):.0f}: see the samples; "
        "a length reward or method.beta > 0 holds them back.",
    )


def both_less_likely(state: RunState) -> Finding | None:
    """Whether the margin grows only because the rejected answers fall faster than the chosen ones.

    Of dpo only: its rewards begin at 0, and a larger beta holds the model back. Those of orpo and simpo are
    likelihoods, which say nothing by their size, and their beta pushes answers apart.
    """
    first, last = _ends(list(state.evals), "chosen_reward")
    if first is None or last is None or state.started is None or state.started.method != "dpo":
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
        f"No word for {duration(now - state.last_t)}; see the log. <<monitor.stop>> twice ends it, "
        "<<monitor.resume>> then resumes it.",
    )


CHECKS: tuple[Check, ...] = (diverging, overfitting, no_signal, longer, both_less_likely, memory_full)


def _samples(state: RunState) -> bool:
    return len(state.rollouts) > 0


def _last(state: RunState, count: int) -> list[Step]:
    return state.steps.since(max(0, len(state.steps) - count))


def _ends(evals: Sequence[Eval], name: str) -> tuple[float | None, float | None]:
    return (evals[0].metrics.get(name), evals[-1].metrics.get(name)) if len(evals) > 2 else (None, None)
