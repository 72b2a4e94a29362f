"""How much better each completion was than its group.

    A_i = R_i - mean(R of its group), divided by std(R) + 1e-4

of the group (Shao et al. 2024, arXiv:2402.03300, section 4.1.2), of the whole rollout, or by nothing (Liu et
al. 2025, arXiv:2503.20783, section 3.2). The deviation is the sample's (n - 1), and 1e-4 keeps a group of
almost equal rewards from becoming loud: both as in TRL.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlx_align.methods.grpo import Scaling

Floats = NDArray[np.float64]
EPSILON = 1e-4
ROUNDING = 1e-12
"""As a share of the largest reward: 0.1 + 0.2 is not another reward than 0.3."""


def signal(rewards: Floats) -> NDArray[np.bool_]:
    """(Q,) Which groups say anything: two of a group's (Q, G) rewards differ, by more than rounding."""
    known = np.isfinite(rewards)
    lowest = np.where(known, rewards, np.inf).min(axis=1)
    highest = np.where(known, rewards, -np.inf).max(axis=1)
    known_size = np.where(known, np.abs(rewards), 0.0).max(axis=1)
    speaks: NDArray[np.bool_] = highest - lowest > ROUNDING * known_size
    return speaks


def advantages(rewards: Floats, scaling: Scaling) -> Floats:
    """(Q, G) advantages of the (Q, G) rewards of Q groups.

    A reward that is not known (NaN) is left out of all means and deviations, and its advantage is 0. In a
    group without signal every advantage is exactly 0: equal rewards need not have an exact mean.
    """
    known = np.isfinite(rewards)
    loud = known & signal(rewards)[:, None]
    centred: Floats = np.where(loud, rewards - _mean(rewards, known)[:, None], 0.0)
    match scaling:
        case "group":
            centred /= _deviation(rewards, known)[:, None] + EPSILON
        case "batch":
            centred /= _deviation(rewards.reshape(1, -1), known.reshape(1, -1)) + EPSILON
    return centred


def _mean(rewards: Floats, known: NDArray[np.bool_]) -> Floats:
    """(Q,) means over what is known, 0 where nothing is."""
    means: Floats = np.where(known, rewards, 0.0).sum(axis=1) / np.maximum(1, known.sum(axis=1))
    return means


def _deviation(rewards: Floats, known: NDArray[np.bool_]) -> Floats:
    """(Q,) standard deviations of the sample over what is known, 0 where less than two are."""
    squares = np.where(known, rewards - _mean(rewards, known)[:, None], 0.0) ** 2
    deviations: Floats = np.sqrt(squares.sum(axis=1) / np.maximum(1, known.sum(axis=1) - 1))
    return deviations
