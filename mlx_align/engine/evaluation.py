"""Held-out evaluation: loss and metrics over rows, and answers to the run's fixed prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from mlx_align.backends.base import Objective, Policy, Sampling, World
from mlx_align.batch import Batch
from mlx_align.data import ChatTokenizer, Example
from mlx_align.engine.state import Window, total
from mlx_align.evaluate import kl_estimate
from mlx_align.events import Completion

T = TypeVar("T")


def evaluate(
    policy: Policy,
    objective: Objective,
    batches: Sequence[Batch],
    progress: Callable[[int, int], None],
    world: World,
) -> dict[str, float]:
    """Loss and mean metrics over all held-out rows, each weighing the same; every rank reads its batches."""
    window, counts, kl = Window(), dict[str, float](), dict[str, float]()
    batches = batches[world.rank :: world.size]
    for number, batch in enumerate(batches):
        scores = policy.evaluate(batch, objective)
        window.add(scores, batch.size, batch.tokens(), batch.padded())
        counts = total([counts, objective.method.counts(batch, objective.hp)])
        kl = total([kl, dict(zip(("sum", "tokens"), kl_estimate(scores.logps, batch), strict=True))])
        progress(number + 1, len(batches))
    window = window.of_all(world)
    counts, kl = total(world.gather(counts)), total(world.gather(kl))
    return {"loss": window.loss(counts), **window.means(), "kl": kl["sum"] / max(1.0, kl["tokens"])}


def answer(
    policy: Policy, tokenizer: ChatTokenizer, examples: Sequence[Example], max_tokens: int
) -> tuple[Completion, ...]:
    """Greedy answers to the examples' prompts, beside what the data says."""
    if not examples:
        return ()
    generations = policy.generate(
        [example.prompt_ids for example in examples],
        sampling=Sampling(max_tokens=max_tokens),
        stop_ids=sorted(tokenizer.stop_ids),
    )
    return tuple(
        Completion(
            prompt=example.question,
            completion=tokenizer.decode(generation.text_ids).strip(),
            chosen=example.answers[0] if example.answers else example.answer,
            rejected=example.answers[1] if len(example.answers) > 1 else None,
            finished=generation.finished,
        )
        for example, (generation,) in zip(examples, generations, strict=True)
    )


def spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly over all of them: a sorted file must not give only its beginning."""
    if not items or not count:
        return []
    picks = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in dict.fromkeys(picks.tolist())]
