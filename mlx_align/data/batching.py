"""From examples to batches: padding, and a plan that can be resumed from its position alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.batch import Batch
from mlx_align.data.tokenizing import Example

WINDOW = 16
"""Batches whose rows are sorted by length together: enough to save most padding, few enough to be random."""


def collate(
    examples: Sequence[Example],
    *,
    scores_prompt: bool = False,
    ref_logps: Sequence[Sequence[NDArray[np.float32]]] | None = None,
    pad_to: int = 16,
) -> Batch:
    """One Batch of numpy arrays; see `mlx_align.batch.Batch` for their shapes.

    Args:
        examples: B rows with the same number of branches.
        scores_prompt: score the prompt's tokens too: each branch then begins at the prompt's second token.
        ref_logps: for each example, for each branch, one float32 array as long as the branch: the
            reference's log-probabilities. Padded with 0.
        pad_to: P and T are rounded up to a multiple of this, because every new shape is a new trace.

    Raises:
        ValueError: reference log-probabilities that do not fit their branches.
    """
    answers = [(row, answer) for row, example in enumerate(examples) for answer in example.branch_ids]
    prompts = [example.prompt_ids[:1] if scores_prompt else example.prompt_ids for example in examples]
    leads = [example.prompt_ids[1:] if scores_prompt else () for example in examples]
    branches = [leads[row] + answer for row, answer in answers]
    responses = [[0] * len(leads[row]) + [1] * len(answer) for row, answer in answers]
    prompt_width = 1 if scores_prompt else _round_up(max(map(len, prompts)), pad_to)
    width = _round_up(max(map(len, branches)), pad_to)
    return Batch(
        prompt_ids=_pad(prompts, prompt_width, np.int32),
        prompt_lens=np.array([len(prompt) for prompt in prompts], dtype=np.int32),
        branch_ids=_pad(branches, width, np.int32),
        branch_mask=_pad([[1] * len(branch) for branch in branches], width, np.float32),
        response_mask=_pad(responses, width, np.float32),
        branch_row=np.array([row for row, _ in answers], dtype=np.int32),
        ref_logps=None if ref_logps is None else _pad(_fitting(ref_logps, branches), width, np.float32),
        rows=tuple(example.name for example in examples),
    )


class BatchPlan:
    """An endless sequence of micro-batches, addressed by position: a pure function of (seed, position).

    Every epoch is a fresh permutation that has every row exactly once. Rows of similar length share a
    batch, and the batches come in random order; an epoch's smaller last batch is kept.

    Args:
        lengths: tokens of each row.
        batch_size: rows in a batch.
        seed: the same seed gives the same sequence.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._batches: list[tuple[int, ...]] = []

    @property
    def per_epoch(self) -> int:
        """Micro-batches in one pass over the rows."""
        return math.ceil(len(self._lengths) / self._batch_size)

    def indices(self, position: int) -> tuple[int, ...]:
        """The rows of micro-batch number `position`, counted from 0 over all epochs."""
        epoch, within = divmod(position, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._plan(epoch)
        return self._batches[within]

    def _plan(self, epoch: int) -> list[tuple[int, ...]]:
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(len(self._lengths))
        window = WINDOW * self._batch_size
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(order), window):
            rows = order[start : start + window]
            by_length = rows[np.argsort(self._lengths[rows], kind="stable")]
            batches += _chunks(by_length.tolist(), self._batch_size)
        return [batches[which] for which in generator.permutation(len(batches))]


def eval_batches(lengths: Sequence[int], batch_size: int) -> list[tuple[int, ...]]:
    """Every row once, in order of length: the least padding, and the same order every time."""
    return _chunks(sorted(range(len(lengths)), key=lambda row: lengths[row]), batch_size)


def _chunks(rows: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(rows[start : start + size]) for start in range(0, len(rows), size)]


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _pad(rows: Sequence[Sequence[Any] | NDArray[Any]], width: int, dtype: type[np.generic]) -> NDArray[Any]:
    """(len(rows), width), each row at the left and zeros after it."""
    out = np.zeros((len(rows), width), dtype=dtype)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out


def _fitting(
    ref_logps: Sequence[Sequence[NDArray[np.float32]]], branches: Sequence[tuple[int, ...]]
) -> list[NDArray[np.float32]]:
    """One array a branch, in the branches' order."""
    arrays = [array for of_example in ref_logps for array in of_example]
    if [len(array) for array in arrays] != [len(branch) for branch in branches]:
        raise ValueError("reference log-probabilities do not fit their branches")
    return arrays
