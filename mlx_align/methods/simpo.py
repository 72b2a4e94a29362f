"""SimPO: simple preference optimisation with a reference-free, length-normalised reward.

Meng, Xia and Chen 2024, arXiv:2405.14734, equation 6, with a = (1/n) sum_t log p(y_t | x, y_<t):

    L = -log sigmoid(beta * (a_c - a_r) - gamma)

gamma is the target margin and stands outside beta. n counts response tokens only.
"""

from __future__ import annotations

from pydantic import Field

from mlx_align.batch import CHOSEN, REJECTED, Array, Batch
from mlx_align.methods.base import Hyperparameters, Loss, Method, pair_metrics, sequence_logps
from mlx_align.methods.ops import Ops


class SimpoHyperparameters(Hyperparameters):
    """SimPO's numbers. TRL's (CPOTrainer, loss_type "simpo") are beta 0.1 and gamma 0.5."""

    beta: float = Field(default=2.0, gt=0, description="reward scale; its authors use 2.0 to 10")
    # github.com/princeton-nlp/SimPO: 0.1 to 0.8 times beta for the released models, 0.5 to begin with.
    gamma: float = Field(
        default=1.0, ge=0, description="target reward margin; its authors advise 0 to 1 times beta"
    )


def loss(xp: Ops, logps: Array, ref_logps: Array | None, batch: Batch, hp: SimpoHyperparameters) -> Loss:
    """SimPO loss of B pairs from (2B, T) log-probabilities."""
    total, n = sequence_logps(xp, logps, batch.response_mask)
    reward = hp.beta * total / n
    chosen, rejected = batch.branch(reward, CHOSEN), batch.branch(reward, REJECTED)
    losses = -xp.log_sigmoid(chosen - rejected - hp.gamma)
    return Loss(sums={"loss": xp.sum(losses)}, metrics=pair_metrics(xp, chosen, rejected))


METHOD = Method(
    name="simpo",
    title="Simple preference optimisation",
    paper="Meng et al. 2024, arXiv:2405.14734",
    rows="pair",
    branches=lambda hp: 2,
    needs_reference=lambda hp: False,
    hyperparameters=SimpoHyperparameters,
    loss=loss,
    # The paper tunes 3e-7 to 1e-6 for all weights and warns that larger rates degrade answers; LoRA: about
    # ten times that.
    defaults={"optim.lr": 5e-6},
)
