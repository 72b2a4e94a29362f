"""A batch as the token sequences that a model reads, on every backend."""

from __future__ import annotations

from collections.abc import Sequence
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
        members: (n,) their numbers among the N branches', row by row, or, of prompts, N plus the row's.
        width: tokens that they are padded to.
    """

    members: Ids
    width: int


@dataclass(frozen=True)
class Predicted:
    """Where the M scored tokens are predicted.

    Attributes:
        sequence: (M,) in which sequence.
        position: (M,) at which of its tokens.
    """

    sequence: Ids
    position: Ids

    @classmethod
    def of(cls, batch: Batch, before: Ids, *, apart: bool) -> Predicted:
        """Of a batch's scored tokens.

        Args:
            batch: with numpy arrays.
            before: (N,) where in a branch's sequence its first token is predicted.
            apart: whether prompts are sequences of their own, after the N branches'; else those before a
                row's first branch predict the prompt's tokens.
        """
        n, width = batch.branch_ids.shape
        row, column = np.divmod(batch.scored, width)
        prompt, token = np.divmod(batch.scored - n * width, batch.prompt_ids.shape[1])
        of_prompt = row >= n
        own = before[np.where(of_prompt, 0, row)] + column
        # A prompt's first token is predicted nowhere, but it may be there to fill M.
        return cls(
            np.where(of_prompt, n + prompt if apart else prompt * batch.branches, row).astype(np.int32),
            np.where(of_prompt, np.maximum(token - 1, 0), own).astype(np.int32),
        )


def groups(predicted: Predicted, n: int, k: int, width: int, *, ragged: bool) -> list[Group]:
    """All of N branches' sequences, or those of about the same length each.

    The branches of a group are the same of every row, as prompts are continued by k branches each.

    Args:
        predicted: how far each must be read.
        n: N.
        k: branches of a row.
        width: of the longest sequence, padded.
        ragged: whether shorter ones are to be read apart.
    """
    if not ragged:
        return [Group(np.arange(n, dtype=np.int32), width)]
    needed = np.ones(n, np.int64)
    own = predicted.sequence < n
    np.maximum.at(needed, predicted.sequence[own], predicted.position[own] + 1)
    needed = needed.reshape(-1, k).max(axis=0)
    made: list[list[int]] = []
    for branch in np.argsort(-needed, kind="stable").tolist():
        if not made or needed[branch] < needed[made[-1][0]] - RAGGED:
            made.append([])
        made[-1].append(branch)
    firsts = np.arange(0, n, k)[:, None]
    return [Group((firsts + sorted(own)).reshape(-1).astype(np.int32), int(needed[own[0]])) for own in made]


def places(predicted: Predicted, groups: Sequence[Group]) -> Ids:
    """(M,) which of the groups' tokens, one after the other, predicts each scored one.

    Args:
        predicted: where in their sequences.
        groups: that have all sequences between them.
    """
    begins = np.zeros(sum(len(group.members) for group in groups), np.int64)
    start = 0
    for group in groups:
        begins[group.members] = start + np.arange(len(group.members)) * group.width
        start += len(group.members) * group.width
    at: Ids = (begins[predicted.sequence] + predicted.position).astype(np.int32)
    return at
