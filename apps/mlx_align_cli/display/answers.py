"""The answers to the run's fixed held-out prompts, before training beside those of now. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_align.evaluate import nearer_to_chosen
from mlx_align.events import Completion, Sample
from mlx_align.run_state import RunState
from mlx_align_cli.display.facts import kept_step
from mlx_align_cli.display.text import plural


@dataclass(frozen=True)
class Comparison:
    """What the model said to one held-out prompt before training, and what it says after `step`."""

    prompt: str
    before: str
    after: str
    before_cut: bool = False
    after_cut: bool = False
    step: int = 0

    @property
    def changed(self) -> bool:
        """Whether training made a difference here."""
        return self.before != self.after


def comparisons(state: RunState) -> list[Comparison]:
    """The answers at step 0 beside those of the adapter, changed ones first; empty until there are both."""
    pairs, step = _pairs(state)
    found = [
        Comparison(old.prompt, old.completion, new.completion, not old.finished, not new.finished, step)
        for old, new in pairs
    ]
    return sorted(found, key=lambda pair: not pair.changed)


def _pairs(state: RunState) -> tuple[list[tuple[Completion, Completion]], int]:
    samples = list(state.samples)
    if not samples or samples[0].step != 0:
        return [], 0
    after = _sample_for(samples, kept_step(state))
    if after is samples[0]:
        return [], 0
    answers = {c.prompt: c for c in after.completions}
    pairs = [(old, answers[old.prompt]) for old in samples[0].completions if old.prompt in answers]
    return pairs, after.step


def _sample_for(samples: list[Sample], step: int) -> Sample:
    return next((s for s in reversed(samples) if s.step == step), samples[-1])


def summary(state: RunState, pairs: Sequence[Comparison], shown: int) -> list[str]:
    """What the comparisons come to, in a line or two.

    Args:
        state: the run.
        pairs: from `comparisons`.
        shown: how many of them a person sees.
    """
    changed = sum(pair.changed for pair in pairs)
    seen = f", {shown} shown" if shown < len(pairs) else ""
    lines = [f"{plural(len(pairs), 'prompt')} asked{seen}, {plural(changed, 'answer')} changed"]
    both, _ = _pairs(state)
    (before, judged), (after, _) = (nearer_to_chosen(side) for side in zip(*both, strict=True))
    if judged:
        lines.append(
            "nearer to the chosen than the rejected answer: "
            f"{before} of {judged} before, {after} of {judged} after"
        )
    return lines


def telling(state: RunState) -> int:
    """The number of the prompt worth watching: the first that the model answered otherwise than it should."""
    first = next((s for s in state.samples if s.step == 0), None)
    if first is None:
        return 0
    wrong = (
        i for i, c in enumerate(first.completions) if c.chosen and c.completion.strip() != c.chosen.strip()
    )
    return next(wrong, 0)


def example_prompt(state: RunState) -> str:
    """A prompt to try the adapter with, short enough for a command line; a changed answer first."""
    prompts = [pair.prompt for pair in comparisons(state)]
    prompts += [c.prompt for s in state.samples for c in s.completions]
    fitting = (p for p in prompts if len(p) <= 60 and p.isprintable() and not p.startswith("-"))
    return next(fitting, "Hello")
