"""Which places of a batch's flat grid the head is computed for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def scored_places(
    branch_mask: NDArray[np.float32], prompt_mask: NDArray[np.float32] | None, count: int | None = None
) -> NDArray[np.int32]:
    """(count,) places of the flat grid, as `Batch.scored` has them; None: those that a mask marks."""
    masks = [branch_mask] if prompt_mask is None else [branch_mask, prompt_mask]
    marks = np.concatenate([mask.reshape(-1) for mask in masks]) != 0
    wanted = int(np.count_nonzero(marks)) if count is None else count
    return np.argsort(~marks, kind="stable")[:wanted].astype(np.int32)
