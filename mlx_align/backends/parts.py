"""A batch in parts, each with some of its rows and no wider than they need; their results put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import Scores
from mlx_align.batch import Batch

Logps = NDArray[np.float32]
PER_BRANCH = ("branch_ids", "branch_mask", "response_mask", "ref_logps")


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
    branches = [row * k + which for row in rows for which in range(k)]
    mask = batch.branch_mask[branches]
    width = int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
    lens = batch.prompt_lens[rows]
    given = {name: getattr(batch, name) for name in PER_BRANCH}
    changed = {name: array[branches, :width] for name, array in given.items() if array is not None}
    return replace(
        batch,
        **changed,
        prompt_ids=batch.prompt_ids[rows, : int(lens.max())],
        prompt_lens=lens,
        branch_row=np.repeat(np.arange(len(rows), dtype=np.int32), k),
        scored=np.flatnonzero(mask[:, :width]).astype(np.int32),
        rows=tuple(batch.rows[row] for row in rows),
    )


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
