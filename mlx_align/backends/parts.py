"""A batch divided, and its results put together again.

parts     some of the rows each, padded no further than they need
pieces    some of the branches of every row each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import Scores
from mlx_align.batch import Batch
from mlx_align.scored import scored_places

Logps = NDArray[np.float32]
PER_BRANCH = ("branch_ids", "branch_mask", "response_mask", "ref_logps", "old_logps", "advantages")


@dataclass(frozen=True)
class Part:
    """Some rows of a batch.

    Attributes:
        rows: their numbers in the whole batch, ascending.
        batch: they alone, with numpy arrays, padded to the longest of them.
    """

    rows: tuple[int, ...]
    batch: Batch


def divide(batch: Batch, count: int) -> list[Part]:
    """At most `count` parts with about the same number of tokens, the largest row first to the emptiest part.

    Args:
        batch: with numpy arrays.
        count: at least 1.
    """
    k = batch.branches
    tokens = batch.prompt_lens + batch.branch_mask.reshape(batch.size, -1).sum(axis=1)
    rows: list[list[int]] = [[] for _ in range(min(count, batch.size))]
    loads = [0.0] * len(rows)
    for row in np.argsort(-tokens, kind="stable").tolist():
        emptiest = loads.index(min(loads))
        rows[emptiest].append(row)
        loads[emptiest] += float(tokens[row])
    return [Part(tuple(sorted(own)), _of_rows(batch, sorted(own), k)) for own in rows]


def _of_rows(batch: Batch, rows: Sequence[int], k: int) -> Batch:
    lens = batch.prompt_lens[rows]
    longest, mask = int(lens.max()), batch.prompt_mask
    own = replace(
        batch,
        prompt_ids=batch.prompt_ids[rows, :longest],
        prompt_lens=lens,
        prompt_mask=None if mask is None else mask[rows, :longest],
        rows=tuple(batch.rows[row] for row in rows),
    )
    made = _of_branches(own, [row * k + which for row in rows for which in range(k)])
    return replace(made, branch_row=np.repeat(np.arange(len(rows), dtype=np.int32), k))


def _of_branches(batch: Batch, branches: Sequence[int], *, keep_shape: bool = False) -> Batch:
    """Only these branches, as wide as they need, or as the batch is; the prompts stay."""
    mask = batch.branch_mask[branches]
    width = mask.shape[1] if keep_shape else int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
    given = {name: getattr(batch, name) for name in PER_BRANCH}
    changed = {name: array[branches] for name, array in given.items() if array is not None}
    changed = {name: array[:, :width] if array.ndim == 2 else array for name, array in changed.items()}
    count = len(batch.scored) if keep_shape else None
    return replace(batch, **changed, scored=scored_places(mask[:, :width], batch.prompt_mask, count))


@dataclass(frozen=True)
class Piece:
    """Some branches of every row of a batch.

    Attributes:
        branches: their numbers in the whole batch, ascending.
        batch: they alone, with numpy arrays, after the same prompts.
    """

    branches: tuple[int, ...]
    batch: Batch


def pieces(batch: Batch, at_once: int | None, *, keep_shape: bool) -> list[Piece]:
    """The batch in pieces.

    Args:
        batch: with numpy arrays.
        at_once: branches of every row in a piece, at the most; None: all of them.
        keep_shape: a piece's arrays depend on the batch's shape only, not on how long its own branches are:
            they are as wide as the batch's, and as many positions are scored, if it has so many. So most of
            its padding is computed too; that is the price of one trace for all pieces.

    Raises:
        ValueError: the batch's prompts are scored, which none of several pieces could do for all.
    """
    k = batch.branches
    if at_once is None or at_once >= k:
        return [Piece(tuple(range(batch.size * k)), batch)]
    if batch.prompt_mask is not None:
        raise ValueError("a batch whose prompts are scored cannot be taken in pieces")
    starts = range(0, k, at_once)
    own = [[row * k + b for row in range(batch.size) for b in range(k)[at : at + at_once]] for at in starts]
    return [Piece(tuple(branches), _piece(batch, branches, keep_shape)) for branches in own]


def _piece(batch: Batch, branches: Sequence[int], keep_shape: bool) -> Batch:
    made = _of_branches(batch, branches, keep_shape=keep_shape)
    return replace(made, branch_row=batch.branch_row[branches])


def rejoined(batch: Batch, cut: Sequence[Piece], scores: Sequence[Scores]) -> Scores:
    """The scores of the whole batch; a metric is the mean of the pieces', weighted by their branches."""
    sums = {term: sum(score.sums[term] for score in scores) for term in scores[0].sums}
    shares = [len(piece.branches) / len(batch.branch_ids) for piece in cut]
    metrics = {
        name: sum(
            (score.metrics[name] * np.float32(share) for score, share in zip(scores, shares, strict=True)),
            np.zeros(batch.size, np.float32),
        )
        for name in scores[0].metrics
    }
    logps = np.zeros(batch.branch_ids.shape, np.float32)
    for piece, score in zip(cut, scores, strict=True):
        logps[list(piece.branches), : score.logps.shape[1]] = score.logps
    return Scores(sums, metrics, logps)


def together(batch: Batch, parts: Sequence[Part], scores: Sequence[Scores]) -> Scores:
    """The scores of the whole batch."""
    sums = {term: sum(score.sums[term] for score in scores) for term in scores[0].sums}
    metrics = {name: np.zeros(batch.size, np.float32) for name in scores[0].metrics}
    for part, score in zip(parts, scores, strict=True):
        for name, values in score.metrics.items():
            metrics[name][list(part.rows)] = values
    return Scores(sums, metrics, spread(batch, parts, [score.logps for score in scores]))


def spread(batch: Batch, parts: Sequence[Part], logps: Sequence[Logps]) -> Logps:
    """(N, T) log-probabilities of the whole batch; 0 where masked."""
    out = np.zeros(batch.branch_ids.shape, np.float32)
    by_row = out.reshape(batch.size, batch.branches, -1)
    for part, values in zip(parts, logps, strict=True):
        width = values.shape[1]
        by_row[list(part.rows), :, :width] = values.reshape(len(part.rows), -1, width)
    return out
