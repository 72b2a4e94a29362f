"""Sampling, with transformers' own generate()."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, TopPLogitsWarper

from mlx_align.backends.base import Generation

SIDE_BY_SIDE = 32
"""Sequences decoded together, as on the MLX backend."""


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    stop_ids: Sequence[int],
    temperature: float,
    top_p: float,
    seed: int,
) -> list[Generation]:
    """Continue each prompt by at most `max_tokens` tokens; the stop token is kept as the last id.

    The nucleus is taken before the temperature, as mlx-lm does; transformers alone would do it after.
    """
    if temperature > 0:
        torch.manual_seed(seed)
    first = LogitsProcessorList([TopPLogitsWarper(top_p)] if temperature > 0 and 0 < top_p < 1 else [])
    config = _config(max_tokens, stop_ids, temperature)
    done: list[Generation] = []
    for begin in range(0, len(prompts), SIDE_BY_SIDE):
        ids, mask = _left_padded(prompts[begin : begin + SIDE_BY_SIDE], model.device)
        with torch.no_grad():
            whole = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=first
            )
        done += [_cut(row, stop_ids) for row in whole[:, ids.shape[1] :].tolist()]
    return done


def _config(max_tokens: int, stop_ids: Sequence[int], temperature: float) -> GenerationConfig:
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=max_tokens,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=0,  # whatever follows a stop token is cut off again
        **sampling,
    )


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _cut(tokens: list[int], stop_ids: Sequence[int]) -> Generation:
    end = next((index for index, token in enumerate(tokens) if token in stop_ids), None)
    kept = tokens if end is None else tokens[: end + 1]
    return Generation(tuple(kept), finished=end is not None)
