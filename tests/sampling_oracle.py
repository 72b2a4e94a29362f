"""What sampling should do, in float64 numpy and plain words of the papers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import Sampling

Floats = NDArray[np.float64]


def softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def distribution(logits: Floats, sampling: Sampling, seen: Collection[int] = ()) -> Floats:
    """(V,) the probabilities of the next token, from (V,) logits and the tokens of prompt and completion."""
    logits = logits.astype(np.float64).copy()
    for token in set(seen):
        factor = sampling.repetition_penalty if logits[token] < 0 else 1 / sampling.repetition_penalty
        logits[token] *= factor
    own = softmax(logits)
    order = np.argsort(-own)
    allowed = set(range(len(logits)))
    if sampling.top_k:
        allowed &= set(order[: sampling.top_k])
    if sampling.top_p < 1:
        count = int(np.searchsorted(np.cumsum(own[order]), sampling.top_p)) + 1
        allowed &= set(order[:count])
    if sampling.min_p:
        allowed &= {token for token, p in enumerate(own) if p >= sampling.min_p * own.max()}
    tempered = softmax(logits / sampling.temperature)
    kept = np.where(np.isin(np.arange(len(logits)), list(allowed)), tempered, 0.0)
    return kept / kept.sum()


def assert_drawn_from(expected: Floats, tokens: Sequence[int]) -> None:
    """Pearson's chi-square test at 0.1%, rare tokens taken together; quantile by Wilson and Hilferty (1931).

    Raises:
        AssertionError: the tokens are not from the (V,) distribution, or one that cannot be drawn was.
    """
    observed = np.bincount(tokens, minlength=len(expected)).astype(np.float64)
    assert not observed[expected == 0].any(), "an impossible token was drawn"
    wanted = expected * len(tokens)
    rare = wanted < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    cells = wanted > 0
    free = cells.sum() - 1
    statistic = ((observed - wanted)[cells] ** 2 / wanted[cells]).sum()
    assert statistic < free * (1 - 2 / (9 * free) + 3.09 * np.sqrt(2 / (9 * free))) ** 3
