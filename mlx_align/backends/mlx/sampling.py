"""From logits to tokens.

A token is drawn where the running sum of the probabilities passes a uniform number (inverse transform
sampling). That needs one random number a token instead of one for every word of the vocabulary, and no
normalised log-probabilities: on the CPU less than half the time of the usual Gumbel noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import Sampling
from mlx_align.backends.mlx.cpu import exp

BLOCK = 256
"""Probabilities are summed in two levels: a running float32 sum over a whole vocabulary loses digits."""


class Sampler:
    """Draws the next token of N sequences that are decoded in step.

    Args:
        sampling: how.
        prompts: (N,) the sequences' prompts, whose tokens the repetition penalty counts as well.
        uniforms: (N, max_tokens) float32 in [0, 1), one number for each token.
    """

    def __init__(
        self, sampling: Sampling, prompts: Sequence[Sequence[int]], uniforms: NDArray[np.float32]
    ) -> None:
        self._sampling, self._prompts = sampling, prompts
        self._uniforms = mx.array(uniforms)
        self._seen: mx.array | None = None

    def take(self, rows: mx.array) -> None:
        """Keep these sequences."""
        self._uniforms = self._uniforms[rows]
        self._seen = None if self._seen is None else self._seen[rows]

    def __call__(self, tokens: mx.array, logits: mx.array, position: int) -> mx.array:
        """The (N,) tokens at a position of the completions.

        Args:
            tokens: (N,) the tokens before it.
            logits: (N, V) what the model says comes next.
            position: counted from the first token that is sampled.
        """
        logits = logits.astype(mx.float32)
        if self._sampling.repetition_penalty != 1:
            logits = penalised(logits, self._update_seen(tokens, logits), self._sampling.repetition_penalty)
        if self._sampling.temperature == 0:
            return logits.argmax(axis=-1)
        logits = filtered(logits, self._sampling) / self._sampling.temperature
        return drawn(logits, self._uniforms[:, position])

    def _update_seen(self, tokens: mx.array, logits: mx.array) -> mx.array:
        if self._seen is None:
            seen = np.zeros(logits.shape, np.bool_)
            for row, prompt in zip(seen, self._prompts, strict=True):
                row[list(prompt)] = True
            self._seen = mx.array(seen)
        self._seen = mx.put_along_axis(self._seen, tokens[:, None], mx.array(True), axis=-1)
        return self._seen


def penalised(logits: mx.array, seen: mx.array, penalty: float) -> mx.array:
    """(N, V) logits, those of tokens seen before made smaller.

    Paper: Keskar et al. 2019, arXiv:1909.05858, section 4.1.

    Args:
        logits: (N, V).
        seen: (N, V) boolean.
        penalty: above 1, repetition becomes rarer.
    """
    return mx.where(seen, mx.where(logits < 0, logits * penalty, logits / penalty), logits)


def filtered(logits: mx.array, sampling: Sampling) -> mx.array:
    """(N, V) logits, -inf for tokens outside top-k, nucleus or min-p.

    Each filter asks what the model itself says, without temperature, as mlx-lm's do; a token stays if it
    passes all three. Tokens as likely as the last that stays, stay too.
    """
    floors = []
    if 0 < sampling.top_k < logits.shape[-1]:
        floors.append(mx.topk(logits, sampling.top_k, axis=-1).min(axis=-1, keepdims=True))
    if sampling.top_p < 1:
        floors.append(_nucleus_floor(logits, sampling.top_p))
    if sampling.min_p > 0:
        floors.append(logits.max(axis=-1, keepdims=True) + math.log(sampling.min_p))
    for floor in floors:
        logits = mx.where(logits < floor, -mx.inf, logits)
    return logits


def _nucleus_floor(logits: mx.array, top_p: float) -> mx.array:
    """(N, 1) the least logit of the smallest set that holds `top_p` of the probability (arXiv:1904.09751)."""
    falling = -mx.sort(-logits, axis=-1)
    weights = exp(falling - falling[:, :1])
    above = mx.cumsum(weights, axis=-1, inclusive=False)
    held = (above < top_p * weights.sum(axis=-1, keepdims=True)).sum(axis=-1, keepdims=True)
    return mx.take_along_axis(falling, mx.maximum(held - 1, 0), axis=-1)


def drawn(logits: mx.array, uniforms: mx.array) -> mx.array:
    """(N,) tokens drawn from softmax(logits).

    Args:
        logits: (N, V); -inf is never drawn.
        uniforms: (N,) in [0, 1).
    """
    weights = exp(logits - logits.max(axis=-1, keepdims=True))
    blocks = mx.pad(weights, [(0, 0), (0, -weights.shape[-1] % BLOCK)]).reshape(len(weights), -1, BLOCK)
    sums = blocks.sum(axis=-1)
    target = uniforms * sums.sum(axis=-1)
    block, before = _passing(sums, target)
    inside, _ = _passing(mx.take_along_axis(blocks, block[:, None, None], axis=1).squeeze(1), target - before)
    return block * BLOCK + inside


def _passing(weights: mx.array, target: mx.array) -> tuple[mx.array, mx.array]:
    """(N,) where the running sum of (N, n) weights passes the (N,) target, and the sum before it.

    Rounding may leave no such place, about once in ten million draws: then it is that of the largest weight.
    """
    running = mx.cumsum(weights, axis=-1)
    passes = (running > target[:, None]) & (weights > 0)
    place = mx.where(passes.any(axis=-1), passes.argmax(axis=-1), weights.argmax(axis=-1))
    before = mx.take_along_axis(running - weights, place[:, None], axis=-1).squeeze(-1)
    return place, before
