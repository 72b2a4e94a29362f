"""Supervised fine-tuning: the negative log-likelihood of the answer.

    L = - (1 / sum_i n_i) * sum_i sum_t log p(y_it | x_i, y_i<t)

averaged over the response tokens of the whole accumulation window, as transformers and TRL do.
"""

from __future__ import annotations

from mlx_align.batch import Array, Batch
from mlx_align.methods.base import Hyperparameters, Loss, Method, sequence_logps
from mlx_align.methods.ops import Ops


class SftHyperparameters(Hyperparameters):
    """SFT has no numbers of its own."""


def loss(xp: Ops, logps: Array, ref_logps: Array | None, batch: Batch, hp: SftHyperparameters) -> Loss:
    """Token-weighted negative log-likelihood of the (B, T) responses."""
    total, n = sequence_logps(xp, logps, batch.response_mask)
    return Loss(sums={"nll": -xp.sum(total)}, metrics={"nll": -total / n})


def counts(batch: Batch, hp: SftHyperparameters) -> dict[str, float]:
    """Response tokens."""
    return {"nll": float(batch.response_mask.sum())}


METHOD = Method(
    name="sft",
    title="Supervised fine-tuning",
    paper="Ouyang et al. 2022, arXiv:2203.02155, section 3.5",
    rows="completion",
    branches=lambda hp: 1,
    needs_reference=lambda hp: False,
    hyperparameters=SftHyperparameters,
    loss=loss,
    counts=counts,
    # LoRA wants about ten times the full fine-tuning rate ("LoRA Without Regret", 2025); mlx-lm uses 1e-5,
    # TRL's LoRA guides 1e-4 to 2e-4.
    defaults={"optim.lr": 1e-4},
)
