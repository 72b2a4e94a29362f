"""From a batch to the log-probabilities of its scored tokens.

This is the plain forward: each branch is one whole sequence, prompt and continuation. Sequences are
right-padded, so under a causal mask no real token can see padding, and no attention mask is needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlx_align.batch import Batch


def scored_logps(
    model: Any, ids: NDArray[np.int32], starts: NDArray[np.int32], batch: Batch, temperature: float
) -> torch.Tensor:
    """The flat grid (`Batch.scored`) of float32 log-probabilities, 0 where no mask marks.

    The logits that predict token t of a branch stand one position before it. They are gathered first and
    normalised after, in float32, so no softmax is spent on prompts that are not scored; before the shortest
    such prompt's end no logits are computed at all.

    Args:
        model: a causal language model of transformers.
        ids: (N, L) from `whole_sequences`.
        starts: (N,) from `whole_sequences`.
        batch: with tensors on the model's device.
        temperature: divides the logits.
    """
    device = batch.branch_ids.device
    inputs = torch.tensor(ids[:, :-1], device=device).long()
    unscored = int(starts.min()) - 1 if batch.prompt_mask is None else 0
    wanted = inputs.shape[1] - unscored
    logits = model(input_ids=inputs, use_cache=False, logits_to_keep=wanted).logits
    # Counted from the end: an architecture that knows no `logits_to_keep` has returned them all.
    first = inputs.shape[1] - logits.shape[1]
    columns = torch.tensor(starts, device=device).long()[:, None] - 1 - first
    columns = columns + torch.arange(batch.branch_ids.shape[1], device=device)
    rows = torch.arange(len(ids), device=device)[:, None]
    of_branches = _logps(logits[rows, columns], batch.branch_ids, batch.branch_mask, temperature)
    if batch.prompt_mask is None:
        return of_branches.reshape(-1)
    # Every row's first branch predicts the prompt's tokens but the first, which nothing predicts.
    prompts, mask = batch.prompt_ids, batch.prompt_mask
    before = logits[:: batch.branches, : prompts.shape[1] - 1]
    predicted = _logps(before, prompts[:, 1:], mask[:, 1:], temperature)
    of_prompts = torch.nn.functional.pad(predicted, (1, 0))
    return torch.cat([of_branches.reshape(-1), of_prompts.reshape(-1)])


def _logps(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """(n, m) float32 log-probabilities of (n, m) ids from (n, m, V) logits, 0 where masked."""
    scored = logits.float() / temperature
    # Relative to the largest logit, the log-probability of an almost certain token keeps its digits: as a
    # difference of two numbers near 20 it would be known to 2e-6 only, and ORPO takes log(1 - p) of it.
    scored = scored - scored.amax(dim=-1, keepdim=True).detach()
    picked = scored.gather(-1, ids[:, :, None]).squeeze(-1)
    logps = picked - log_normaliser(scored)
    return torch.where(mask > 0, logps, torch.zeros_like(logps))


def log_normaliser(scored: torch.Tensor) -> torch.Tensor:
    """Log of the sum of exp over the last axis, (..., V) -> (...), for logits of which the largest is 0.

    The largest contributes exactly 1. Summed with the others it would swallow their digits, so the others
    are summed alone and log1p adds it.
    """
    # At the largest logit itself the value is 0 and the derivative 1, as that of exp would be.
    others = torch.where(scored < 0, scored.exp(), scored)
    ties = (scored == 0).sum(dim=-1) - 1
    return torch.log1p(others.sum(dim=-1) + ties)
