"""A batch as whole sequences: what a plain forward pass eats, on every backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlx_align.batch import Batch


def whole_sequences(batch: Batch) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Prompt and branch joined without padding between them.

    Args:
        batch: with numpy arrays.

    Returns:
        ids: (N, P + T) int32, right-padded.
        starts: (N,) int32, where each branch begins; at least 1.
    """
    prompts = batch.prompt_ids[batch.branch_row]
    starts = batch.prompt_lens[batch.branch_row].astype(np.int32)
    n, width = batch.branch_ids.shape
    ids = np.zeros((n, prompts.shape[1] + width), dtype=np.int32)
    ids[:, : prompts.shape[1]] = prompts
    columns = starts[:, None] + np.arange(width)
    ids[np.arange(n)[:, None], columns] = batch.branch_ids
    return ids, starts
