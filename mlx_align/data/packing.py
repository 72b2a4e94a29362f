"""Which rows share a batch: so many rows of similar shape, or as many as a budget holds.

Every row belongs to a cell, a prompt width and a branch width that it may be padded to, and rows of one cell
share a batch. Under a budget no batch has rows of two cells, and a cell's rows are spread evenly over its
batches, so that these have two numbers of rows at most, the same in every epoch: a run's shapes are few,
known before it starts, and within the budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_align.data.merging import Items, merge
from mlx_align.data.shapes import Ints, Sizes

CELLS = 30
"""Cells where batches have a number of rows: close to the shapes that a run may have (`shapes`)."""
OVERHEAD = 4
"""A batch is taken to cost a quarter of the budget besides its tokens, against many cells of few rows."""


@dataclass(frozen=True)
class Packing:
    """How an epoch's rows, in whatever order they come, are divided into batches.

    Attributes:
        bounds: (batches + 1,) where each batch begins in the arranged rows, and their end.
        groups: (batches,) batches of one group have the same number of rows, and of one cell.
        cell: (R,) each row's, numbered by size.
        oversized: (R,) whether a row is above the budget with its padding, though computed alone.
    """

    bounds: Ints
    groups: Ints
    cell: Ints
    oversized: NDArray[np.bool_]

    def arrange(self, order: Ints) -> Ints:
        """(R,) the same rows, batch after batch."""
        return order[np.argsort(self.cell[order], kind="stable")]

    def part(self, rank: int, ranks: int) -> tuple[NDArray[np.bool_], Ints]:
        """What a rank reads: (R,) which of the arranged rows, and (batches,) how many of each batch.

        Those are every `ranks`-th row of a batch, so none of one that has fewer rows than ranks.
        """
        sizes = np.diff(self.bounds)
        within = np.arange(len(self.cell)) - np.repeat(self.bounds[:-1], sizes)
        return within % ranks == rank, -(-np.maximum(0, sizes - rank) // ranks)


def by_rows(sizes: Sizes, batch_size: int) -> Packing:
    """Batches of `batch_size` rows, and a last one of what remains."""
    widths, prices = sizes.padded(), np.array([1, sizes.branches])
    one_group = np.zeros(len(sizes), np.int64)
    cells = merge(Items.of(widths, np.tile(prices, (len(widths), 1)), one_group), CELLS)
    bounds = np.append(np.arange(0, len(sizes), batch_size), len(sizes))
    cell = _cell_of(widths, _by_size(cells))
    return Packing(bounds, np.diff(bounds), cell, np.zeros(len(sizes), bool))


def by_tokens(sizes: Sizes, budget: int, shapes: int) -> Packing:
    """Batches of at most `budget` tokens, padding included, with at most `shapes` numbers of rows and cells.

    A row that is above the budget by itself is a batch of its own.
    """
    widths, prices = sizes.padded(), np.array([1, sizes.branches])
    cells = _best_cells(widths, prices, budget, shapes // 2)
    cell = _cell_of(widths, cells)
    needs = cells @ prices
    counts = np.bincount(cell, minlength=len(cells))
    batches = -(-counts // _rows_in(needs, budget))
    rows = [_spread(count, over) for count, over in zip(counts.tolist(), batches.tolist(), strict=True)]
    each = np.concatenate(rows)
    groups = np.repeat(np.arange(len(cells)), batches) * (len(sizes) + 1) + each
    bounds = np.append(0, np.cumsum(each))
    return Packing(bounds, groups, cell, needs[cell] > budget)


def _best_cells(widths: Ints, prices: Ints, budget: int, most: int) -> Ints:
    """(cells, 2) at most so many prompt and branch widths: those that make an epoch cheapest.

    Many cells mean little padding, few mean full batches.
    """
    fits_alone = (widths @ prices <= budget).astype(np.int64)
    items = merge(Items.of(widths, np.tile(prices, (len(widths), 1)), fits_alone), most, ceiling=budget)
    choices = [items]
    while len(choices[-1].sizes) > len(np.unique(items.groups)):
        choices.append(merge(choices[-1], len(choices[-1].sizes) - 1, ceiling=budget))

    def cost(cells: Items) -> tuple[int, int]:
        needs = cells.work
        above = int(cells.weights[needs > budget].sum())
        batches = -(-cells.weights // _rows_in(needs, budget))
        return above, int((cells.weights * needs).sum() + batches.sum() * budget // OVERHEAD)

    best = min(choices, key=cost)
    return _by_size(best)


def _by_size(cells: Items) -> Ints:
    """(cells, 2) widths, the smallest first."""
    return cells.sizes[np.argsort(cells.work, kind="stable")]


def _rows_in(needs: Ints, budget: int) -> Ints:
    """(cells,) rows of a cell that the budget holds, at least one."""
    return np.maximum(1, budget // needs)


def _cell_of(widths: Ints, cells: Ints) -> Ints:
    """(R,) the first, and so cheapest, cell that holds each row."""
    first: Ints = np.argmax((widths[:, None, :] <= cells).all(axis=2), axis=1)
    return first


def _spread(count: int, batches: int) -> Ints:
    """(batches,) rows in each, as evenly as can be."""
    return np.diff(np.arange(batches + 1) * count // max(1, batches))
