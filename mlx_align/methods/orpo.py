"""ORPO: odds ratio preference optimisation, no reference model and no separate SFT stage.

Hong, Lee and Thorne 2024, arXiv:2403.07691. With a = (1/n) sum_t log p(y_t | x, y_<t) the
length-normalised log-probability of an answer (equation 3), odds(y) = p / (1 - p) for p = exp(a)
(equation 4), and c, r the chosen and rejected answers:

    log_odds = log(odds(y_c) / odds(y_r)) = (a_c - a_r) - (log(1 - e^a_c) - log(1 - e^a_r))
    L_OR     = -log sigmoid(log_odds)                                      (equation 7)
    L        = L_SFT + beta * L_OR                                         (equation 6, lambda there)

L_SFT is the chosen answer's negative log-likelihood, averaged over tokens. The paper takes it over the
response, and so do we; TRL's ORPOTrainer takes it over prompt and response (`nll = "prompt+response"`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlx_align.batch import CHOSEN, REJECTED, Array, Batch
from mlx_align.methods.base import Hyperparameters, Loss, Method, pair_metrics, sequence_logps
from mlx_align.methods.ops import Ops

LOG_HALF = -0.6931471805599453
CERTAIN = -1e-12
"""Mean log-probabilities are kept below this: at exactly 0 the odds are infinite, and float32 does
round the log-probability of a token that the model is sure of to 0."""


class OrpoHyperparameters(Hyperparameters):
    """ORPO's numbers."""

    beta: float = Field(
        default=0.1, gt=0, description="weight of the odds-ratio term (lambda in the paper; TRL: 0.1)"
    )
    nll: Literal["response", "prompt+response"] = Field(
        default="response",
        description="tokens of L_SFT: the paper's (response) or TRL's (prompt+response)",
    )


def log1mexp(xp: Ops, a: Array) -> Array:
    """log(1 - exp(a)) for a < 0, accurate at both ends (Mächler 2012, Rmpfr note).

    Each of the two formulas gets an argument from its own half, because the gradient of the formula
    that `where` discards must stay finite as well.
    """
    near_zero = a > LOG_HALF
    inside, outside = xp.where(near_zero, a, a * 0 - 1), xp.where(near_zero, a * 0 - 1, a)
    return xp.where(near_zero, xp.log(-xp.expm1(inside)), xp.log1p(-xp.exp(outside)))


def loss(xp: Ops, logps: Array, ref_logps: Array | None, batch: Batch, hp: OrpoHyperparameters) -> Loss:
    """Odds-ratio loss of B pairs from (2B, T) log-probabilities."""
    total, n = sequence_logps(xp, logps, batch.response_mask)
    mean = xp.minimum(total / n, CERTAIN)
    a_chosen, a_rejected = batch.branch(mean, CHOSEN), batch.branch(mean, REJECTED)
    log_odds = (a_chosen - a_rejected) - (log1mexp(xp, a_chosen) - log1mexp(xp, a_rejected))
    odds_loss = -xp.log_sigmoid(log_odds)
    nll, tokens = -batch.branch(total, CHOSEN), batch.branch(n, CHOSEN)
    if batch.prompt_mask is not None:
        of_prompt, prompt_n = sequence_logps(xp, batch.prompt_logps, batch.prompt_mask)
        nll, tokens = nll - of_prompt, tokens + prompt_n
    return Loss(
        sums={"nll": xp.sum(nll), "odds": hp.beta * xp.sum(odds_loss)},
        metrics={
            **pair_metrics(xp, hp.beta * a_chosen, hp.beta * a_rejected),
            "nll": nll / tokens,
            "log_odds": log_odds,
        },
    )


def counts(batch: Batch, hp: OrpoHyperparameters) -> dict[str, float]:
    """The likelihood is averaged over tokens, the odds ratio over pairs."""
    tokens = float(batch.branch(batch.response_mask, CHOSEN).sum())
    if batch.prompt_mask is not None:
        tokens += float(batch.prompt_mask.sum())
    return {"nll": tokens, "odds": float(batch.size)}


METHOD = Method(
    name="orpo",
    title="Odds ratio preference optimisation",
    paper="Hong et al. 2024, arXiv:2403.07691",
    rows="pair",
    branches=lambda hp: 2,
    needs_reference=lambda hp: False,
    hyperparameters=OrpoHyperparameters,
    loss=loss,
    counts=counts,
    # The paper trains all weights at 5e-6 to 8e-6; LoRA wants about ten times that.
    defaults={"optim.lr": 5e-5},
    scores_prompt=lambda hp: hp.nll == "prompt+response",
)
