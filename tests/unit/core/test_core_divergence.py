"""The KL estimate, beside the same sum written out in double precision."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mlx_align.batch import Batch
from mlx_align.evaluate import kl_estimate


def batch_of(masks: list[list[int]], ref: np.ndarray | None) -> Batch:
    mask = np.array(masks, np.float32)
    rows = len(masks) // 2
    return Batch(
        prompt_ids=np.ones((rows, 1), np.int32),
        prompt_lens=np.ones(rows, np.int32),
        branch_ids=np.ones(mask.shape, np.int32),
        branch_mask=mask,
        response_mask=mask,
        branch_row=np.repeat(np.arange(rows, dtype=np.int32), 2),
        scored=np.flatnonzero(mask).astype(np.int32),
        ref_logps=ref,
        rows=tuple(f"d:{i}" for i in range(rows)),
    )


def test_it_is_schulmans_k3_over_the_chosen_tokens() -> None:
    rng = np.random.default_rng(0)
    masks = [[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]]
    logps = rng.normal(-2, 1, (4, 3)).astype(np.float32)
    ref = rng.normal(-2, 1, (4, 3)).astype(np.float32)
    total, tokens = kl_estimate(logps, batch_of(masks, ref))
    chosen = [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    by_hand = math.fsum(
        math.exp(d) - 1 - d for row, t in chosen for d in [float(ref[row, t] - logps[row, t])]
    )
    assert tokens == 5
    assert total == pytest.approx(by_hand, rel=1e-9)


def test_the_same_policy_has_moved_nowhere_and_no_policy_moves_less() -> None:
    logps = np.array([[-0.1, -3.0], [-1.0, -1.0]], np.float32)
    assert kl_estimate(logps, batch_of([[1, 1], [1, 1]], logps)) == (0.0, 2.0)
    for shift in (1e-4, 0.5, -0.5, 4.0):
        assert kl_estimate(logps, batch_of([[1, 1], [1, 1]], logps + np.float32(shift)))[0] > 0


def test_small_differences_keep_their_digits() -> None:
    """exp(d) - 1 - d is d * d / 2 for small d; computed as written, float32 would return noise."""
    logps = np.zeros((2, 1), np.float32)
    ref = np.full((2, 1), 1e-5, np.float32)
    assert kl_estimate(logps, batch_of([[1], [1]], ref))[0] == pytest.approx(0.5e-10, rel=1e-4)


def test_without_a_reference_there_is_nothing_to_compare_with() -> None:
    batch = batch_of([[1], [1]], np.zeros((2, 1), np.float32))
    assert kl_estimate(np.zeros((2, 1), np.float32), replace(batch, ref_logps=None)) == (0.0, 0.0)
