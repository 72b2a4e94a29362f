"""mlx-lm's caches while several sequences are decoded: one row for each.

Sequences of one length need nothing but arrays with more rows. Prompts of several lengths need the batched
kind of each cache, which pads on the left and masks the padding; not every architecture reads those rightly,
which `trouble_together` finds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache

from mlx_align.backends.mlx.probe import PROMPTS, trouble_of

Caches = list[Any]
"""A cache for each layer."""

TOKENS_AT_A_TIME = 2048
"""Of a prompt, while it is read: what a layer computes for more of them would not fit a small Mac."""


def after_prompts(model: nn.Module, prompts: Sequence[Sequence[int]]) -> Caches:
    """The caches after every prompt's tokens but the last, a row for each prompt.

    Each prompt is read by itself. Side by side they would have to be padded, and not every architecture
    passes over padding rightly; a prompt is long enough to keep a device busy.
    """
    alone = [_after(model, prompt[:-1]) for prompt in prompts]
    if len(alone) == 1:
        return alone[0]
    return [layer[0].merge(list(layer)) for layer in zip(*alone, strict=True)]


def _after(model: nn.Module, ids: Sequence[int]) -> Caches:
    caches: Caches = make_prompt_cache(model)
    for begin in range(0, len(ids), TOKENS_AT_A_TIME):
        model(mx.array([ids[begin : begin + TOKENS_AT_A_TIME]], mx.int32), cache=caches)
        mx.eval([cache.state for cache in caches])
    return caches


def take(caches: Caches, rows: mx.array) -> None:
    """Keep these rows, in this order; a row that is named several times is repeated."""
    for cache in caches:
        cache.state = tree_map(lambda held: held[rows] if isinstance(held, mx.array) else held, cache.state)


def trouble_together(model: nn.Module) -> str | None:
    """Why prompts of several lengths cannot be decoded side by side, found by trying it; None: they can."""
    shorter, longer = sorted(PROMPTS, key=len)
    alone = model(mx.array([shorter]), cache=make_prompt_cache(model))[:, -1]

    def beside() -> mx.array:
        caches = after_prompts(model, [longer, shorter])
        logits: mx.array = model(mx.array([longer[-1:], shorter[-1:]]), cache=caches)[1:, -1]
        return logits

    return trouble_of(beside, alone, model(mx.array([shorter[-1:]]))[:, -1])
