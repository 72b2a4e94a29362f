"""The losses again, in float64 numpy, one row at a time and with gradients derived by hand.

Nothing here comes from `mlx_align.methods`: formulas are written from the papers, loops instead of array
tricks, so that a mistake would have to be made twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Row:
    """Token log-probabilities of one row's branches; `lead` prompt tokens come first in each branch."""

    branches: list[np.ndarray]
    ref: list[np.ndarray]
    lead: int = 0


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x: float) -> float:
    """-log sigmoid(-x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def log1mexp(a: float) -> float:
    return math.log(-math.expm1(a)) if a > -math.log(2) else math.log1p(-math.exp(a))


def _zeros(rows: list[Row]) -> list[list[np.ndarray]]:
    return [[np.zeros_like(branch) for branch in row.branches] for row in rows]


def sft(rows: list[Row]) -> tuple[float, list[list[np.ndarray]]]:
    tokens = sum(len(row.branches[0]) for row in rows)
    grads = _zeros(rows)
    for grad in grads:
        grad[0][:] = -1 / tokens
    return -sum(row.branches[0].sum() for row in rows) / tokens, grads


def orpo(rows: list[Row], beta: float) -> tuple[float, list[list[np.ndarray]]]:
    """Odds ratio; the likelihood term over all tokens of the chosen branch, lead included."""
    tokens = sum(len(row.branches[0]) for row in rows)
    grads, total = _zeros(rows), 0.0
    for row, grad in zip(rows, grads, strict=True):
        means = [branch[row.lead :].mean() for branch in row.branches]
        log_odds = (means[0] - log1mexp(means[0])) - (means[1] - log1mexp(means[1]))
        total += -row.branches[0].sum() / tokens + beta * softplus(-log_odds) / len(rows)
        pull = beta * sigmoid(-log_odds) / len(rows)
        for which, sign in ((0, -1), (1, 1)):  # d log odds(p) / d a = 1 / (1 - p)
            n = len(row.branches[which]) - row.lead
            grad[which][row.lead :] += sign * pull / -math.expm1(means[which]) / n
        grad[0] -= 1 / tokens
    return total, grads


def dpo(
    rows: list[Row], beta: float, loss_type: str, eps: float = 0.0
) -> tuple[float, list[list[np.ndarray]]]:
    grads, total = _zeros(rows), 0.0
    for row, grad in zip(rows, grads, strict=True):
        ratios = [branch - ref for branch, ref in zip(row.branches, row.ref, strict=True)]
        scale = [1.0, 1.0] if loss_type != "ipo" else [1 / len(r) for r in ratios]
        h = ratios[0].sum() * scale[0] - ratios[1].sum() * scale[1]
        if loss_type == "sigmoid":
            value = (1 - eps) * softplus(-beta * h) + eps * softplus(beta * h)
            slope = beta * (-(1 - eps) * sigmoid(-beta * h) + eps * sigmoid(beta * h))
        elif loss_type == "ipo":
            value = (h - 1 / (2 * beta)) ** 2
            slope = 2 * (h - 1 / (2 * beta))
        else:
            value = max(0.0, 1 - beta * h)
            slope = -beta if beta * h < 1 else 0.0
        total += value / len(rows)
        grad[0] += slope * scale[0] / len(rows)
        grad[1] -= slope * scale[1] / len(rows)
    return total, grads


def simpo(rows: list[Row], beta: float, gamma: float) -> tuple[float, list[list[np.ndarray]]]:
    grads, total = _zeros(rows), 0.0
    for row, grad in zip(rows, grads, strict=True):
        x = beta * (row.branches[0].mean() - row.branches[1].mean()) - gamma
        total += softplus(-x) / len(rows)
        for which, sign in ((0, -1), (1, 1)):
            grad[which] += sign * beta * sigmoid(-x) / len(row.branches[which]) / len(rows)
    return total, grads


@dataclass
class Answer:
    """One sampled answer: its log-probabilities under policy, sampling policy and reference.

    `counted` is False for an answer that the loss leaves out (a truncated one).
    """

    logps: np.ndarray
    old: np.ndarray
    ref: np.ndarray
    advantage: float
    counted: bool = True


@dataclass
class Clip:
    """Where ratios stop counting: below 1 - low, above 1 + high and, for a bad answer, above delta."""

    low: float
    high: float
    delta: float = math.inf

    def surrogate(self, ratio: float, advantage: float) -> tuple[float, float]:
        """Clipped objective and its derivative by the logarithm of the ratio, case by case."""
        if advantage >= 0:
            moves = ratio < 1 + self.high
            return min(ratio, 1 + self.high) * advantage, ratio * advantage if moves else 0.0
        moves = 1 - self.low < ratio < self.delta
        return min(max(ratio, 1 - self.low), self.delta) * advantage, ratio * advantage if moves else 0.0


def k3(lp: float, ref: float, ratio: float | None = None) -> tuple[float, float]:
    """Estimate of the KL divergence at one token and its derivative by lp, weighted by a ratio if given."""
    value, slope = math.exp(ref - lp) - (ref - lp) - 1, 1 - math.exp(ref - lp)
    return (value, slope) if ratio is None else (ratio * value, ratio * slope + ratio * value)


def answer_weight(loss_type: str, answers: list[Answer], answer: Answer, length: int | None) -> float:
    """What a token of this answer weighs in the loss."""
    if loss_type in ("grpo", "gspo"):
        return 1 / len(answers) / len(answer.logps)
    if loss_type == "dr_grpo":
        assert length is not None
        return 1 / len(answers) / length
    return 1 / sum(len(a.logps) for a in answers if a.counted)


def grpo(
    answers: list[Answer],
    loss_type: str,
    clip: Clip,
    beta: float = 0.0,
    *,
    weighted_kl: bool = False,
    length: int | None = None,
) -> tuple[float, list[np.ndarray]]:
    """Value, and derivative by every answer's log-probabilities."""
    total, grads = 0.0, [np.zeros_like(answer.logps) for answer in answers]
    for answer, grad in zip(answers, grads, strict=True):
        if not answer.counted:
            continue
        weight = answer_weight(loss_type, answers, answer, length)
        mean = math.exp(float(np.mean(answer.logps - answer.old)))
        for t, lp in enumerate(answer.logps):
            ratio = mean if loss_type == "gspo" else math.exp(lp - answer.old[t])
            objective, slope = clip.surrogate(ratio, answer.advantage)
            divergence, kl_slope = k3(lp, answer.ref[t], ratio if weighted_kl else None)
            total += weight * (beta * divergence - objective)
            grad[t] += weight * beta * kl_slope
            if loss_type == "gspo":
                grad -= weight * slope / len(grad)
            else:
                grad[t] -= weight * slope
    return total, grads
