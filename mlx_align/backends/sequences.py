"""A batch as the token sequences that a model reads, on every backend."""

from __future__ import annotations

from dataclasses import dataclass

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


RAGGED = 32
"""Branches whose lengths differ by no more are read side by side: so few tokens cost less than another pass
over the weights."""


@dataclass(frozen=True)
class Group:
    """Sequences that are read side by side.

    Attributes:
        members: (n,) their numbers among all N, row by row.
        width: tokens that they are padded to.
    """

    members: Ids
    width: int


def groups(batch: Batch, before: Ids, width: int, *, ragged: bool) -> list[Group]:
    """All sequences, or those of about the same length each.

    The branches of a group are the same of every row, as prompts are continued by k branches each.

    Args:
        batch: with numpy arrays.
        before: (N,) where in a sequence the first branch token is predicted.
        width: of the longest sequence, padded.
        ragged: whether shorter ones are to be read apart.
    """
    n, k = len(batch.branch_ids), batch.branches
    if not ragged:
        return [Group(np.arange(n, dtype=np.int32), width)]
    row, column = np.divmod(batch.scored, batch.branch_ids.shape[1])
    needed = np.ones(n, np.int64)
    np.maximum.at(needed, row, before[row] + column + 1)
    needed = needed.reshape(-1, k).max(axis=0)
    made: list[list[int]] = []
    for branch in np.argsort(-needed, kind="stable").tolist():
        if not made or needed[branch] < needed[made[-1][0]] - RAGGED:
            made.append([])
        made[-1].append(branch)
    firsts = np.arange(0, n, k)[:, None]
    return [Group((firsts + sorted(own)).reshape(-1).astype(np.int32), int(needed[own[0]])) for own in made]


def predicting(batch: Batch, before: Ids, groups: list[Group]) -> tuple[list[Ids], Ids]:
    """Where the scored tokens are predicted.

    Returns:
        at: for each group, (m,) int32: which of its tokens, row by row, predict scored ones.
        order: (M,) int32, where in all of `at` each scored token's is.
    """
    row, column = np.divmod(batch.scored, batch.branch_ids.shape[1])
    at: list[Ids] = []
    found: list[NDArray[np.int64]] = []
    for group in groups:
        rank = np.full(len(batch.branch_ids), -1)
        rank[group.members] = np.arange(len(group.members))
        (own,) = np.nonzero(rank[row] >= 0)
        of = row[own]
        places: Ids = (rank[of] * group.width + before[of] + column[own]).astype(np.int32)
        at.append(places)
        found.append(own)
    return at, np.argsort(np.concatenate(found)).astype(np.int32)
