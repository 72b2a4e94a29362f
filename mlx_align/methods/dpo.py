"""DPO: direct preference optimisation against a frozen reference, with two well-known variants.

With lp the summed response log-probability, h = (lp_c - ref_c) - (lp_r - ref_r):

    sigmoid   -(1 - eps) log sigmoid(beta h) - eps log sigmoid(-beta h)
              Rafailov et al. 2023, arXiv:2305.18290, equation 7; label smoothing eps from
              Mitchell 2023, "A note on DPO with noisy preferences", equation 3
    ipo       (h' - 1 / (2 beta))^2 with h' from length-normalised log-ratios
              Azar et al. 2023, arXiv:2310.12036, equation 17; the normalisation as in TRL
    hinge     max(0, 1 - beta h)
              Zhao et al. 2023 (SLiC), arXiv:2305.10425, with the margin normalised as in TRL
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mlx_align.batch import CHOSEN, REJECTED, Array, Batch
from mlx_align.methods.base import Hyperparameters, Loss, Method, pair_metrics, sequence_logps
from mlx_align.methods.ops import Ops


class DpoHyperparameters(Hyperparameters):
    """DPO's numbers."""

    beta: float = Field(default=0.1, gt=0, description="how strongly the policy is held to the reference")
    loss_type: Literal["sigmoid", "ipo", "hinge"] = Field(default="sigmoid", description="the variant")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of pairs believed to be labelled the wrong way round"
    )

    @model_validator(mode="after")
    def _smoothing_is_used(self) -> DpoHyperparameters:
        if self.label_smoothing and self.loss_type != "sigmoid":
            raise ValueError(f"label_smoothing has no meaning with loss_type '{self.loss_type}'")
        return self


def loss(xp: Ops, logps: Array, ref_logps: Array | None, batch: Batch, hp: DpoHyperparameters) -> Loss:
    """DPO loss of B pairs from (2B, T) policy and reference log-probabilities."""
    if ref_logps is None:
        raise ValueError("DPO needs ref_logps")
    ratio, n = sequence_logps(xp, logps - ref_logps, batch.response_mask)
    if hp.loss_type == "ipo":
        ratio = ratio / n
    chosen, rejected = batch.branch(ratio, CHOSEN), batch.branch(ratio, REJECTED)
    if hp.loss_type == "ipo":
        losses = (chosen - rejected - 1 / (2 * hp.beta)) ** 2
    elif hp.loss_type == "hinge":
        losses = xp.relu(1 - hp.beta * (chosen - rejected))
    else:
        logits = hp.beta * (chosen - rejected)
        eps = hp.label_smoothing
        losses = -(1 - eps) * xp.log_sigmoid(logits) - eps * xp.log_sigmoid(-logits)
    return Loss(sums={"loss": xp.sum(losses)}, metrics=pair_metrics(xp, hp.beta * chosen, hp.beta * rejected))


METHOD = Method(
    name="dpo",
    title="Direct preference optimisation",
    paper="Rafailov et al. 2023, arXiv:2305.18290",
    rows="pair",
    branches=lambda hp: 2,
    needs_reference=lambda hp: True,
    hyperparameters=DpoHyperparameters,
    loss=loss,
    # Zephyr's LoRA recipe (alignment-handbook, zephyr-7b-dpo-qlora) trains at 5e-6; smaller models take more.
    defaults={"optim.lr": 1e-5},
)
