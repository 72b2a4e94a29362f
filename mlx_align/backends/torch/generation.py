"""Sampling, with transformers' own generate()."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mlx_align.backends.base import Generation, Sampling
from mlx_align.backends.completions import Asked, Group, Row, apart, groups_of, results, uniforms, waves
from mlx_align.backends.torch.longrope import border, chosen

SIDE_BY_SIDE = 32
"""Sequences decoded together, as on the MLX backend."""


def generate(model: Any, asked: Asked) -> list[list[Generation]]:
    """Continue the prompts; for each its continuations."""
    groups = groups_of(asked)
    for long, kind in apart(groups, border(model)):
        with chosen(model, long=long), torch.no_grad():
            for wave in waves(kind, SIDE_BY_SIDE):
                _decode(model, wave)
    return results(groups)


def _decode(model: Any, groups: list[Group]) -> None:
    """Read each group's prompt once and sample all rows in step."""
    rows = [row for group in groups for row in group]
    sampling = rows[0].asked.sampling
    ids, mask = _left_padded(groups, model.device)
    place = torch.tensor([i for i, group in enumerate(groups) for _ in group], device=model.device)
    model.generate(
        input_ids=ids[place],
        attention_mask=mask[place],
        past_key_values=_after_prompts(model, ids, mask, place),
        generation_config=GenerationConfig(max_new_tokens=sampling.max_tokens, do_sample=False),
        logits_processor=_processors(sampling, rows, model.device),
        stopping_criteria=StoppingCriteriaList([_Over(rows)]),
    )


def _left_padded(groups: list[Group], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, P) prompts and their masks.

    A prompt is padded with a token of its own: transformers' repetition penalty does not look at the mask.
    """
    prompts = [list(group[0].prompt_ids) for group in groups]
    width = max(map(len, prompts))
    ids = [prompt[:1] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _after_prompts(model: Any, ids: torch.Tensor, mask: torch.Tensor, place: torch.Tensor) -> DynamicCache:
    """The keys and values of every prompt's tokens but the last, for each row."""
    cache = DynamicCache(config=model.config)
    if ids.shape[1] > 1:
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, :-1]
        model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
        )
        cache.batch_select_indices(place)
    return cache


def _processors(sampling: Sampling, rows: list[Row], device: torch.device) -> LogitsProcessorList:
    """The filters before the temperature, as on the MLX backend; transformers alone would do it after."""
    chain: list[LogitsProcessor] = []
    if sampling.repetition_penalty != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature == 0:
        return LogitsProcessorList(chain)
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        chain.append(MinPLogitsWarper(sampling.min_p))
    if sampling.top_k > 0:
        chain.append(TopKLogitsWarper(sampling.top_k))
    chain.append(TemperatureLogitsWarper(sampling.temperature))
    return LogitsProcessorList([*chain, _Draw(rows, device)])


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token: that at which the running sum of the probabilities passes the row's uniform number.

    transformers itself would draw from the global random state.
    """

    def __init__(self, rows: list[Row], device: torch.device) -> None:
        self._uniforms = torch.from_numpy(uniforms(rows)).to(device)
        self._position = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        weights = scores.softmax(dim=-1, dtype=torch.float32 if scores.is_mps else torch.float64)
        running = weights.cumsum(dim=-1)
        target = self._uniforms[:, self._position, None] * running[:, -1:]
        passes = (running > target) & (weights > 0)
        token = torch.where(passes.any(dim=-1), passes.int().argmax(dim=-1), weights.argmax(dim=-1))
        self._position += 1
        return torch.full_like(scores, -torch.inf).scatter(1, token[:, None], 0.0)


class _Over(StoppingCriteria):  # type: ignore[misc]
    """Gives every row its token, and says which rows it ended."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        over = [row.add(token) for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True)]
        return torch.tensor(over, device=input_ids.device)
