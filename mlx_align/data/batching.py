"""From examples to batches: padding, and a plan that can be resumed from its position alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.batch import Batch
from mlx_align.config import TrainConfig
from mlx_align.data.packing import Packing, by_rows, by_tokens
from mlx_align.data.shapes import LENGTH_STEP, PASS_SHAPES, TRAIN_SHAPES, Ints, Shape, Shapes, Sizes
from mlx_align.data.tokenizing import Example
from mlx_align.scored import scored_places


def collate(
    examples: Sequence[Example],
    *,
    scores_prompt: bool = False,
    ref_logps: Sequence[Sequence[NDArray[np.float32]]] | None = None,
    shape: Shape | None = None,
    pad_to: int = LENGTH_STEP,
) -> Batch:
    """One Batch of numpy arrays; see `mlx_align.batch.Batch` for their shapes.

    Args:
        examples: B rows with the same number of branches.
        scores_prompt: score the prompts' tokens too, all but the first.
        ref_logps: for each example, for each branch, one float32 array as long as the branch: the
            reference's log-probabilities. Padded with 0.
        shape: what to pad to; None: the smallest that holds the rows.
        pad_to: P and T of that smallest shape are multiples of this.

    Raises:
        ValueError: the rows do not fit the shape, or reference log-probabilities their branches.
    """
    prompts = [example.prompt_ids for example in examples]
    branches = [answer for example in examples for answer in example.branch_ids]
    rows = [row for row, example in enumerate(examples) for _ in example.branch_ids]
    smallest = _smallest(Sizes.of(examples, scores_prompt=scores_prompt), pad_to)
    shape = smallest if shape is None else shape
    if not shape.holds(smallest):
        raise ValueError(f"a batch that needs {smallest} cannot be padded to {shape}")
    mask = _pad([[1] * len(branch) for branch in branches], shape.branch, np.float32)
    marks = [[0] + [1] * (len(prompt) - 1) for prompt in prompts]
    prompt_mask = _pad(marks, shape.prompt, np.float32) if scores_prompt else None
    return Batch(
        prompt_ids=_pad(prompts, shape.prompt, np.int32),
        prompt_lens=np.array([len(prompt) for prompt in prompts], dtype=np.int32),
        branch_ids=_pad(branches, shape.branch, np.int32),
        branch_mask=mask,
        response_mask=mask.copy(),
        branch_row=np.array(rows, dtype=np.int32),
        scored=scored_places(mask, prompt_mask, shape.scored),
        ref_logps=None
        if ref_logps is None
        else _pad(_fitting(ref_logps, branches), shape.branch, np.float32),
        rows=tuple(example.name for example in examples),
        prompt_mask=prompt_mask,
    )


class BatchPlan:
    """A run's micro-batches and their shapes by position, counted from 0 over all epochs.

    A pure function of (rows, configuration, position). Every epoch is a fresh permutation that has every row
    exactly once, in the same number of batches. Rows of similar shape share a batch, and the batches come in
    random order.

    Several ranks read side by side, at one position, what a single rank would read with

        `batch_size`          batches so many times as large: each reads its part of the rows
        `tokens_per_batch`    so many batches in turn: each reads one, and so keeps the budget

    Args:
        sizes: of the training rows.
        config: how many rows or tokens a rank's batch has, how long the run is, and its seed.
        rank: whose micro-batches these are.
        ranks: how many read side by side.
    """

    def __init__(self, sizes: Sizes, config: TrainConfig, rank: int = 0, ranks: int = 1) -> None:
        self._sizes, self._config = sizes, config
        # Among how many ranks a batch's rows are divided, and how many batches are read side by side.
        self._among, self._abreast = (ranks, 1) if config.tokens_per_batch is None else (1, ranks)
        self._part, self._turn = rank // self._abreast, rank % self._abreast
        self._packing = _packing(sizes, config, TRAIN_SHAPES, self._among)
        self._epoch, (self._order, self._which) = 0, self._arranged(0)
        self.shapes = self._planned()

    @property
    def per_epoch(self) -> int:
        """Batches in one pass over the rows, those of all ranks."""
        return len(self._packing.groups)

    @property
    def end(self) -> int:
        """Micro-batches of each rank in the whole run; the last may be empty."""
        return -(-self._batches // self._abreast)

    @property
    def oversized(self) -> tuple[int, ...]:
        """The rows that are above `tokens_per_batch` although each is a batch of its own."""
        return tuple(np.flatnonzero(self._packing.oversized).tolist())

    def epoch(self, position: int) -> float:
        """Passes over the rows after so many micro-batches of each rank."""
        return min(position * self._abreast, self._batches) / self.per_epoch

    def indices(self, position: int) -> tuple[int, ...]:
        """The rank's rows of a micro-batch; there may be none if there are several ranks."""
        return self._rows(position * self._abreast + self._turn)[self._part :: self._among]

    def all_indices(self, position: int) -> tuple[int, ...]:
        """The rows that all ranks read at a position."""
        first = position * self._abreast
        return tuple(row for number in range(first, first + self._abreast) for row in self._rows(number))

    def shape(self, position: int) -> Shape:
        """The shape that a micro-batch is padded to; the position must lie in the run."""
        rows = np.array(self.indices(position))
        return self.shapes.fit(self._sizes.natural(rows, np.array([0, len(rows)]))[0])

    @property
    def _batches(self) -> int:
        """Batches in the whole run, those of all ranks."""
        if self._config.steps is not None:
            return self._config.steps * self._config.accumulate * self._abreast
        epochs = self._config.epochs or 0.0  # the config has exactly one of the two
        return max(1, math.ceil(epochs * self.per_epoch))

    def _rows(self, number: int) -> tuple[int, ...]:
        """The rows of a batch; none after the run's last."""
        if number >= self._batches:
            return ()
        epoch, within = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, (self._order, self._which) = epoch, self._arranged(epoch)
        batch = self._which[within]
        start, stop = self._packing.bounds[batch : batch + 2]
        return tuple(self._order[start:stop].tolist())

    def _arranged(self, epoch: int) -> tuple[Ints, Ints]:
        """(R,) an epoch's rows, batch after batch, and (batches,) the order in which the batches come."""
        generator = np.random.default_rng([self._config.seed, epoch])
        order = self._packing.arrange(generator.permutation(len(self._sizes)))
        return order, generator.permutation(self.per_epoch)

    def _planned(self) -> Shapes:
        """The shapes of the rank's part of all batches of the run."""
        own, rows = self._packing.part(self._part, self._among)
        if not own.any():
            return Shapes((), self._sizes.branches)
        bounds = np.append(0, np.cumsum(rows[rows > 0]))
        natural, groups = [], []
        for epoch in range(math.ceil(self._batches / self.per_epoch)):
            order, which = self._arranged(epoch)
            which = which[: self._batches - epoch * self.per_epoch]
            needs = np.zeros((len(rows), 4), np.int64)
            needs[rows > 0] = self._sizes.natural(order[own], bounds)
            natural.append(needs[which[rows[which] > 0]])
            groups.append(self._packing.groups[which[rows[which] > 0]])
        every = np.concatenate(natural), np.concatenate(groups)
        return Shapes.planned(*every, TRAIN_SHAPES, self._sizes.branches)


def eval_batches(
    examples: Sequence[Example], config: TrainConfig, *, scores_prompt: bool = False
) -> list[tuple[tuple[int, ...], Shape]]:
    """All rows once, in batches of similar shape, with the shape that each is padded to by `collate`.

    For every pass without a gradient, over the held-out rows or (for the reference) over the training rows.
    A pass has at most PASS_SHAPES shapes, and the same rows give the same batches every time.

    Args:
        examples: the rows; there may be none.
        config: how many rows or tokens a batch has.
        scores_prompt: `collate`'s.
    """
    if not examples:
        return []
    sizes = Sizes.of(examples, scores_prompt=scores_prompt)
    packing = _packing(sizes, config, PASS_SHAPES)
    order = packing.arrange(np.argsort(sizes.lengths, kind="stable"))
    natural = sizes.natural(order, packing.bounds)
    shapes = Shapes.planned(natural, packing.groups, PASS_SHAPES, sizes.branches)
    batches = [tuple(rows.tolist()) for rows in np.split(order, packing.bounds[1:-1])]
    return [(rows, shapes.fit(needed)) for rows, needed in zip(batches, natural, strict=True)]


def _packing(sizes: Sizes, config: TrainConfig, shapes: int, among: int = 1) -> Packing:
    if config.tokens_per_batch is not None:
        return by_tokens(sizes, config.tokens_per_batch, shapes)
    return by_rows(sizes, among * (config.batch_size or 1))  # the config has exactly one of the two


def _smallest(sizes: Sizes, pad_to: int = LENGTH_STEP) -> Shape:
    """The smallest shape that holds all these rows."""
    (natural,) = sizes.natural(np.arange(len(sizes)), np.array([0, len(sizes)]), pad_to).tolist()
    return Shape(*natural)


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
