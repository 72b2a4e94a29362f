"""GRPO: group relative policy optimisation, and the variants of its loss that are in use.

A group is G answers y_i that the policy sampled for one prompt, each with a reward; A_i says how much better
it was than its group (the engine computes it). With rho_it = p(y_it | x, y_i<t) / p_old(y_it | x, y_i<t), the
ratio to the policy that sampled:

    s_it = min(rho_it A_i, clip(rho_it, 1 - epsilon, 1 + epsilon_high) A_i)
    k_it = exp(ref_it - lp_it) - (ref_it - lp_it) - 1
    L    = - sum_i w_i sum_t (s_it - beta k_it)

Shao et al. 2024, arXiv:2402.03300, equations 3 (objective) and 4 (k, the K3 estimate of the KL divergence
from the reference). The loss types differ in the weight w_i of an answer with n_i tokens in the loss, in an
update of N answers and n tokens:

    grpo      1 / (N n_i): the mean of the answers' means
              arXiv:2402.03300, equation 3
    bnpo      1 / n: the mean over the update's tokens
              TRL's name for it
    dapo      1 / n, with n the rollout's tokens divided by the updates that are made of it; epsilon_high 0.28
              Yu et al. 2025, arXiv:2503.14476, equations 10 (clip-higher) and 12 (the mean over tokens)
    dr_grpo   1 / (N length), with a constant length; rewards are not divided by their deviation
              Liu et al. 2025, arXiv:2503.20783, section 3.2
    gspo      1 / (N n_i), with one ratio for an answer: exp of the mean of its tokens' log-ratios
              Zheng et al. 2025, arXiv:2507.18071, equations 5 (objective) and 7 (ratio)

`delta` bounds rho_it where A_i < 0, which the clip does not: INTELLECT-2, arXiv:2505.07291.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mlx_align.batch import Array, Batch
from mlx_align.methods.base import Hyperparameters, Loss, Method
from mlx_align.methods.ops import Ops

LossType = Literal["grpo", "bnpo", "dapo", "dr_grpo", "gspo"]
Scaling = Literal["group", "batch", "none"]
Auto = Literal["auto"]

EPSILONS: dict[LossType, tuple[float, float]] = {
    "grpo": (0.2, 0.2),  # PPO's (Schulman et al. 2017, arXiv:1707.06347, section 6.1) and TRL's
    "bnpo": (0.2, 0.2),
    "dapo": (0.2, 0.28),  # section 4.1 of its paper
    "dr_grpo": (0.2, 0.2),
    "gspo": (3e-4, 4e-4),  # section 5.1 of its paper: a mean log-ratio moves far less than a token's
}
"""What `epsilon` and `epsilon_high` are where they are not set."""

LARGEST = 80.0
"""Log-ratios are kept below this: float32 has no exp(89), and infinity times an advantage of 0 is a NaN."""


class GrpoHyperparameters(Hyperparameters):
    """GRPO's numbers. "auto" stands for the value that belongs to the loss type."""

    group_size: int = Field(
        default=8, ge=2, description="G, answers sampled for each prompt (TRL: 8, R1: 16)"
    )
    beta: float = Field(
        default=0.0, ge=0, description="weight of the KL term; 0: no reference is scored (TRL: 0, R1: 0.001)"
    )
    # Not "grpo", although the method is called so: its mean over each answer makes long wrong answers cheap
    # (arXiv:2503.20783, section 3.1), and "dapo" is TRL's default too.
    loss_type: LossType = Field(
        default="dapo", description="the variant: what an answer weighs, and what is clipped"
    )
    epsilon: Annotated[float, Field(gt=0)] | Auto = Field(
        default="auto", description="the ratio is clipped at 1 - this; auto: 0.2, gspo 3e-4 (R1: 10)"
    )
    epsilon_high: Annotated[float, Field(gt=0)] | Auto = Field(
        default="auto",
        description="and at 1 + this; auto: epsilon if that is set, else 0.2, dapo 0.28, gspo 4e-4",
    )
    delta: float = Field(
        default=0.0, ge=0, description="largest ratio of an answer worse than its group; 0: no bound"
    )
    unbiased_kl: bool = Field(
        default=False, description="weight a token's KL by its ratio, as TRL does (arXiv:2512.02556)"
    )
    scale_rewards: Literal["auto", "group", "batch", "none"] = Field(
        default="auto",
        description="whose standard deviation divides a group's rewards; auto: group, dr_grpo none",
    )
    mask_truncated: bool = Field(
        default=False, description="leave answers that reached sampling.max_tokens out of the loss"
    )
    num_iterations: int = Field(default=1, ge=1, description="times that a rollout is trained on")
    length: Annotated[int, Field(ge=1)] | Auto = Field(
        default="auto",
        description="dr_grpo's constant, and where overlong_buffer ends; auto: sampling.max_tokens",
    )
    overlong_buffer: int = Field(
        default=0, ge=0, description="last tokens before length that cost up to 1 of the reward; 0: none do"
    )
    refill_limit: int = Field(
        default=0,
        ge=0,
        description="rounds in which groups of equal rewards give way to other prompts' groups; 0: they stay",
    )

    @property
    def clip(self) -> tuple[float, float]:
        """Epsilon below and above; a lone `epsilon` counts for both sides."""
        low, high = EPSILONS[self.loss_type]
        if self.epsilon != "auto":
            low = high = self.epsilon
        return low, high if self.epsilon_high == "auto" else self.epsilon_high

    @property
    def scaling(self) -> Scaling:
        """Whose standard deviation divides a group's rewards."""
        if self.scale_rewards != "auto":
            return self.scale_rewards
        return "none" if self.loss_type == "dr_grpo" else "group"

    @property
    def counts_rollout(self) -> bool:
        """Whether an update's denominator is not its own count but its even share of the whole rollout's.

        So a token weighs the same in whichever of a rollout's updates it is, as in TRL.
        """
        return self.loss_type == "dapo"

    @property
    def _uses_length(self) -> bool:
        return self.loss_type == "dr_grpo" or self.overlong_buffer > 0

    def for_sampling(self, max_tokens: int) -> GrpoHyperparameters:
        """The same numbers, with `length` known where it is used and was left to the sampling.

        Raises:
            pydantic.ValidationError: an overlong buffer longer than the answers may get.
        """
        if self.length != "auto" or not self._uses_length:
            return self
        return GrpoHyperparameters(**{**self.model_dump(), "length": max_tokens})

    @model_validator(mode="after")
    def _everything_is_used(self) -> GrpoHyperparameters:
        if self.delta and self.delta <= 1 + self.clip[1]:
            raise ValueError(f"delta must be above 1 + epsilon_high, here {1 + self.clip[1]:g}, or 0")
        if self.unbiased_kl and not self.beta:
            raise ValueError("unbiased_kl has no meaning without a KL term (beta is 0)")
        if self.unbiased_kl and self.loss_type == "gspo":
            raise ValueError("unbiased_kl needs a ratio for each token, and gspo has one for an answer")
        if self.length != "auto" and not self._uses_length:
            raise ValueError(f"length has no meaning with loss_type '{self.loss_type}' and overlong_buffer 0")
        if self.length != "auto" and self.overlong_buffer > self.length:
            raise ValueError(f"overlong_buffer is longer than the longest answer, {self.length} tokens")
        return self


def loss(xp: Ops, logps: Array, ref_logps: Array | None, batch: Batch, hp: GrpoHyperparameters) -> Loss:
    """GRPO loss of B groups, or of a part of each, from (N, T) log-probabilities.

    Log-probabilities under policy, sampling policy and reference are those at the sampling temperature.
    Without `batch.old_logps` the policy that sampled is this one: every ratio is 1, and only its gradient
    counts. The sampling's filters (top_p, top_k, min_p, repetition_penalty) are in none of the three: where
    one was on, the completions come from another distribution than the one that the ratio is taken to.

    Nothing here compares an answer with its group: sums add up over parts of a group, and a metric of the
    whole is the mean of the parts', weighted by their branches. Metrics look at every sampled token; those
    that the loss leaves out (`mask_truncated`) drift like the others.

    Raises:
        ValueError: no advantages, or no reference where beta asks for one.
    """
    if batch.advantages is None:
        raise ValueError("GRPO needs advantages")
    old = xp.stop_gradient(logps) if batch.old_logps is None else batch.old_logps
    log_ratio = _importance(xp, (logps - old) * batch.branch_mask, batch, hp)
    ratio = xp.exp(xp.minimum(log_ratio, LARGEST))
    advantages = batch.advantages[:, None]
    losses = -_surrogate(xp, ratio, advantages, hp)
    metrics = _clipped_shares(xp, ratio, advantages, batch, hp)
    if hp.beta:
        if ref_logps is None:
            raise ValueError("GRPO with a KL term needs ref_logps")
        divergence = _k3(xp, (ref_logps - logps) * batch.branch_mask)
        metrics["kl"] = _means(xp, divergence, batch)
        losses = losses + hp.beta * (ratio * divergence if hp.unbiased_kl else divergence)
    metrics["entropy"] = _means(xp, -logps, batch)
    totals = xp.sum(losses * batch.response_mask, axis=-1)
    if hp.loss_type in ("grpo", "gspo"):
        totals = totals / _tokens(xp, batch.response_mask)
    return Loss(sums={"loss": xp.sum(totals)}, metrics=metrics)


def _importance(xp: Ops, log_ratio: Array, batch: Batch, hp: GrpoHyperparameters) -> Array:
    """The log-ratio that weighs a token: (N, T) its own, or for gspo (N, 1) its answer's mean."""
    if hp.loss_type != "gspo":
        return log_ratio
    total = xp.sum(log_ratio * batch.response_mask, axis=-1)
    return (total / _tokens(xp, batch.response_mask))[:, None]


def _surrogate(xp: Ops, ratio: Array, advantages: Array, hp: GrpoHyperparameters) -> Array:
    """s of the module's formula: (N, T), or for gspo (N, 1)."""
    low, high = hp.clip
    free = (xp.minimum(ratio, hp.delta) if hp.delta else ratio) * advantages
    held = xp.clip(ratio, 1 - low, 1 + high) * advantages
    return xp.where(free < held, free, held)


def _k3(xp: Ops, log_ratio: Array) -> Array:
    """K3 estimate of the divergence from the reference, from (N, T) log p_ref / p: never below 0."""
    return xp.expm1(xp.minimum(log_ratio, LARGEST)) - log_ratio


def _clipped_shares(
    xp: Ops, ratio: Array, advantages: Array, batch: Batch, hp: GrpoHyperparameters
) -> dict[str, Array]:
    """The shares of tokens whose ratio has gone far enough, so that they move nothing: each (B,)."""
    low, high = hp.clip
    one = ratio * 0 + 1
    worse = xp.where((ratio < 1 - low) & (advantages < 0), one, one * 0)
    better = xp.where((ratio > 1 + high) & (advantages > 0), one, one * 0)
    return {"clip_low": _means(xp, worse, batch), "clip_high": _means(xp, better, batch)}


def _means(xp: Ops, x: Array, batch: Batch) -> Array:
    """The (B,) means over each row's branches of their means over tokens."""
    of_branch = xp.sum(x * batch.branch_mask, axis=-1) / _tokens(xp, batch.branch_mask)
    return xp.sum(batch.by_row(of_branch), axis=-1) / batch.branches


def _tokens(xp: Ops, mask: Array) -> Array:
    """The (N,) tokens that a mask marks, and 1 where it marks none: a sum over none of them is 0."""
    n = xp.sum(mask, axis=-1)
    return xp.where(n > 0, n, n + 1)


def counts(batch: Batch, hp: GrpoHyperparameters) -> dict[str, float]:
    """Answers, those that are left out included, or tokens of the loss, or answers of a constant length.

    Raises:
        ValueError: dr_grpo's length is not known yet (`GrpoHyperparameters.for_sampling`).
    """
    answers = float(batch.branch_ids.shape[0])
    if hp.loss_type in ("grpo", "gspo"):
        return {"loss": answers}
    if hp.loss_type in ("bnpo", "dapo"):
        return {"loss": float(batch.response_mask.sum())}
    if hp.length == "auto":
        raise ValueError("dr_grpo needs a length")
    return {"loss": answers * hp.length}


def overlong_penalty(tokens: int, *, length: int, buffer: int) -> float:
    """DAPO's soft overlong punishment, to be added to a reward: arXiv:2503.14476, equation 13.

    Args:
        tokens: in the answer.
        length: the longest answer there may be, L_max.
        buffer: its last tokens, over which the penalty grows from 0 to -1: L_cache, at least 1.
    """
    return max(-1.0, min(0.0, (length - buffer - tokens) / buffer))


METHOD = Method(
    name="grpo",
    title="Group relative policy optimisation",
    paper="Shao et al. 2024, arXiv:2402.03300",
    rows="prompt",
    branches=lambda hp: hp.group_size,
    needs_reference=lambda hp: hp.beta > 0,
    hyperparameters=GrpoHyperparameters,
    loss=loss,
    counts=counts,
    # TRL trains all weights at 1e-6 and DeepSeek-R1 at 3e-6 (arXiv:2501.12948); LoRA wants about ten times
    # that, under policy gradients too ("LoRA Without Regret", 2025).
    defaults={"optim.lr": 1e-5, "eval.metric": "reward"},
)
