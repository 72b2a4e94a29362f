"""From a batch to the log-probabilities of its branch tokens.

This is the plain forward: each branch is one whole sequence, prompt and continuation. Sequences are
right-padded, so under a causal mask no real token can see padding.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_align.batch import Batch


def whole_sequences(batch: Batch) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Prompt and branch joined without padding between them.

    Args:
        batch: with numpy arrays.

    Returns:
        ids: (N, P + T) int32, right-padded.
        starts: (N,) int32, where each branch begins; at least 1.
    """
    prompts = batch.prompt_ids[batch.branch_row]
    starts = batch.prompt_lens[batch.branch_row].astype(np.int32)
    n, width = batch.branch_ids.shape
    ids = np.zeros((n, prompts.shape[1] + width), dtype=np.int32)
    ids[:, : prompts.shape[1]] = prompts
    columns = starts[:, None] + np.arange(width)
    ids[np.arange(n)[:, None], columns] = batch.branch_ids
    return ids, starts


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
    logps = picked - mx.log(mx.exp(scored).sum(axis=-1))
    return mx.where(batch.branch_mask > 0, logps, 0.0)
