"""From a batch to the log-probabilities of its branch tokens.

This is the plain forward: each branch is one whole sequence, prompt and continuation. Sequences are
right-padded, so under a causal mask no real token can see padding, and no attention mask is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlx_align.batch import Batch


def branch_logps(
    model: Any, ids: NDArray[np.int32], starts: NDArray[np.int32], batch: Batch, temperature: float
) -> torch.Tensor:
    """(N, T) float32 log-probabilities of the branch tokens, 0 where masked.

    The logits that predict token t of a branch stand one position before it. They are gathered first and
    normalised after, in float32, so no softmax is spent on prompts; before the shortest prompt's end no
    logits are computed at all.

    Args:
        model: a causal language model of transformers.
        ids: (N, L) from `whole_sequences`.
        starts: (N,) from `whole_sequences`.
        batch: with tensors on the model's device.
        temperature: divides the logits.
    """
    device = batch.branch_ids.device
    inputs = torch.tensor(ids[:, :-1], device=device).long()
    wanted = inputs.shape[1] - (int(starts.min()) - 1)
    logits = model(input_ids=inputs, use_cache=False, logits_to_keep=wanted).logits
    # Counted from the end: an architecture that knows no `logits_to_keep` has returned them all.
    first = inputs.shape[1] - logits.shape[1]
    columns = torch.tensor(starts, device=device).long()[:, None] - 1 - first
    columns = columns + torch.arange(batch.branch_ids.shape[1], device=device)
    rows = torch.arange(len(ids), device=device)[:, None]
    scored = logits[rows, columns].float() / temperature
    # Relative to the largest logit, the log-probability of an almost certain token keeps its digits: as a
    # difference of two numbers near 20 it would be known to 2e-6 only, and ORPO takes log(1 - p) of it.
    scored = scored - scored.amax(dim=-1, keepdim=True).detach()
    picked = scored.gather(-1, batch.branch_ids[:, :, None]).squeeze(-1)
    logps = picked - log_normaliser(scored)
    return torch.where(batch.branch_mask > 0, logps, torch.zeros_like(logps))


def log_normaliser(scored: torch.Tensor) -> torch.Tensor:
    """Log of the sum of exp over the last axis, (..., V) -> (...), for logits of which the largest is 0.

    The largest contributes exactly 1. Summed with the others it would swallow their digits, so the others
    are summed alone and log1p adds it.
    """
    # At the largest logit itself the value is 0 and the derivative 1, as that of exp would be.
    others = torch.where(scored < 0, scored.exp(), scored)
    ties = (scored == 0).sum(dim=-1) - 1
    return torch.log1p(others.sum(dim=-1) + ties)
