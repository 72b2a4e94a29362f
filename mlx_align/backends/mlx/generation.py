"""Sampling, with mlx-lm's continuous batching."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_sampler

from mlx_align.backends.base import Generation

SIDE_BY_SIDE = 32
"""Sequences decoded together: wide enough to be quick, narrow enough for a small Mac's cache."""


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop_ids: Sequence[int],
    temperature: float,
    top_p: float,
    seed: int,
) -> list[Generation]:
    """Continue each prompt by at most `max_tokens` tokens; the stop token is kept as the last id."""
    if temperature > 0:
        mx.random.seed(seed)
    generator = BatchGenerator(
        model,
        max_tokens=max_tokens,
        stop_tokens=[[token] for token in stop_ids],
        sampler=make_sampler(temp=temperature, top_p=top_p if top_p < 1 else 0.0),
        completion_batch_size=SIDE_BY_SIDE,
        prefill_batch_size=SIDE_BY_SIDE,
    )
    try:
        uids = generator.insert([list(prompt) for prompt in prompts])
        tokens: dict[int, list[int]] = {uid: [] for uid in uids}
        finished = dict.fromkeys(uids, False)
        while responses := generator.next_generated():
            for response in responses:
                tokens[response.uid].append(int(response.token))
                if response.finish_reason == "stop":
                    finished[response.uid] = True
    finally:
        generator.close()
    return [Generation(tuple(tokens[uid]), finished[uid]) for uid in uids]
