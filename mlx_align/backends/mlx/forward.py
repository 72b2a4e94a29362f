"""From a batch to the log-probabilities of its branch tokens.

This is the plain forward: each branch is one whole sequence, prompt and continuation. Sequences are
right-padded, so under a causal mask no real token can see padding.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_align.batch import Batch

BLOCK = 64


def branch_logps(model: nn.Module, ids: mx.array, starts: mx.array, batch: Batch) -> mx.array:
    """(N, T) float32 log-probabilities of the branch tokens, 0 where masked.

    The logits that predict token t of a branch stand one position before it. They are gathered first and
    normalised after, in float32, so no softmax is spent on prompts.

    Args:
        model: an mlx-lm model; called with (N, L) ids it returns (N, L, V) logits.
        ids: (N, L) from `whole_sequences`.
        starts: (N,) from `whole_sequences`.
        batch: with MLX arrays.
    """
    logits = model(ids[:, :-1])
    positions = starts[:, None] - 1 + mx.arange(batch.branch_ids.shape[1])
    scored = mx.take_along_axis(logits, positions[:, :, None], axis=1).astype(mx.float32)
    # Relative to the largest logit, the log-probability of an almost certain token keeps its digits: as a
    # difference of two numbers near 20 it would be known to 2e-6 only, and ORPO takes log(1 - p) of it.
    scored = scored - mx.stop_gradient(scored.max(axis=-1, keepdims=True))
    picked = mx.take_along_axis(scored, batch.branch_ids[:, :, None], axis=-1).squeeze(-1)
    return mx.where(batch.branch_mask > 0, picked - log_normaliser(scored), 0.0)


def log_normaliser(scored: mx.array) -> mx.array:
    """log sum exp over the last axis, (..., V) -> (...), for logits of which the largest is 0.

    The largest contributes exactly 1. Summed with the others it would swallow their digits (about 1e-6 a
    token, always in the same direction), so the others are summed alone and log1p adds it.
    """
    # At the largest logit itself the value is 0 and the derivative 1, as that of exp would be.
    others = mx.where(scored < 0, mx.exp(scored), scored)
    ties = (scored == 0).sum(axis=-1) - 1
    return mx.log1p(_sum_by_blocks(others) + ties)


def _sum_by_blocks(x: mx.array) -> mx.array:
    """Sum over the last axis in two levels: a running float32 sum over a whole vocabulary loses digits."""
    whole = x.shape[-1] // BLOCK * BLOCK
    blocks = x[..., :whole].reshape(*x.shape[:-1], -1, BLOCK)
    return blocks.sum(axis=-1).sum(axis=-1) + x[..., whole:].sum(axis=-1)
