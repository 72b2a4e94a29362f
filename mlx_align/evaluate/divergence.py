"""How far the policy has moved from the model it started as."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlx_align.batch import CHOSEN, Batch


def kl_estimate(logps: NDArray[np.float32], batch: Batch) -> tuple[float, float]:
    """Summed KL estimate over the first branch's response tokens, and their number.

    The estimator is Schulman's k3 (2020, "Approximating KL divergence"): exp(d) - 1 - d with
    d = ref_logp - logp, never negative. The tokens are the data's (the chosen answers), not the policy's own
    samples, so this measures drift on good answers; it is not an unbiased KL of the policy.

    Args:
        logps: (N, T) under the policy.
        batch: with `ref_logps`; without them the estimate is (0, 0).
    """
    if batch.ref_logps is None:
        return 0.0, 0.0
    mask = batch.branch(batch.response_mask, CHOSEN).astype(bool)
    d = (batch.branch(batch.ref_logps, CHOSEN) - batch.branch(logps, CHOSEN))[mask].astype(np.float64)
    return float(np.sum(np.expm1(d) - d)), float(d.size)
