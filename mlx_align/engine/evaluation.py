"""Held-out evaluation: loss and metrics over rows, and answers to the run's fixed prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from mlx_align.backends.base import Policy
from mlx_align.data import ChatTokenizer, Example
from mlx_align.engine.data import RunData
from mlx_align.engine.state import Window
from mlx_align.evaluate import kl_estimate
from mlx_align.events import Completion

T = TypeVar("T")


def evaluate(policy: Policy, data: RunData, progress: Callable[[int, int], None]) -> dict[str, float]:
    """Loss and mean metrics over all held-out rows, each weighing the same."""
    window, counts = Window(), dict[str, float]()
    kl_sum, kl_tokens = 0.0, 0.0
    batches = data.eval_batches()
    for number, batch in enumerate(batches):
        scores = policy.evaluate(batch, data.objective)
        window.add(scores, batch.size, batch.tokens())
        for term, count in data.counts(batch).items():
            counts[term] = counts.get(term, 0.0) + count
        total, tokens = kl_estimate(scores.logps, batch)
        kl_sum, kl_tokens = kl_sum + total, kl_tokens + tokens
        progress(number + 1, len(batches))
    return {"loss": window.loss(counts), **window.means(), "kl": kl_sum / max(1.0, kl_tokens)}


def answer(
    policy: Policy, tokenizer: ChatTokenizer, examples: Sequence[Example], max_tokens: int
) -> tuple[Completion, ...]:
    """Greedy answers to the examples' prompts, beside what the data says."""
    if not examples:
        return ()
    generations = policy.generate(
        [example.prompt_ids for example in examples],
        max_tokens=max_tokens,
        stop_ids=sorted(tokenizer.stop_ids),
    )
    return tuple(
        Completion(
            prompt=example.question,
            completion=tokenizer.decode(generation.text_ids).strip(),
            chosen=example.answers[0],
            rejected=example.answers[1] if len(example.answers) > 1 else None,
            finished=generation.finished,
        )
        for example, generation in zip(examples, generations, strict=True)
    )


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly over all of them: a sorted file must not give only its beginning."""
    if not items or not count:
        return []
    picks = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in dict.fromkeys(picks.tolist())]
