"""A batch as the token sequences that a model reads, on every backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlx_align.batch import Batch

Ids = NDArray[np.int32]


def whole_sequences(batch: Batch) -> tuple[Ids, Ids]:
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


def prefixes_and_suffixes(batch: Batch) -> tuple[Ids, Ids, Ids]:
    """Each prompt but its last token, to be read once; and for each branch what is read after it.

    The last prompt token belongs to the suffix, because the first branch token is predicted at its position.

    Args:
        batch: with numpy arrays; P is at least 2.

    Returns:
        prefixes: (B, P - 1) int32, right-padded.
        lens: (N,) int32, the prefix tokens that each branch continues.
        suffixes: (N, T) int32: the last prompt token, then the branch but its last token.
    """
    lens = (batch.prompt_lens - 1)[batch.branch_row].astype(np.int32)
    last = batch.prompt_ids[batch.branch_row, lens]
    suffixes = np.concatenate([last[:, None], batch.branch_ids[:, :-1]], axis=1)
    return batch.prompt_ids[:, :-1], lens, suffixes
