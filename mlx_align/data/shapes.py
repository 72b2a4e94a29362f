"""The shapes of batches: what rows need, and the few shapes that a run's batches are padded to.

Every new shape is a new computation graph for a backend to trace, so a run has at most SHAPES of them. They
are found from all of the run's batches before its first one (`merging`), by work:

    work of a batch = B * P + N * T + M / 4

in layer tokens: the head counts as a quarter of the layers, between Qwen3 0.6B (a third) and 4B (a ninth).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_align.data.merging import Items, merge
from mlx_align.data.tokenizing import Example

Ints = NDArray[np.int64]

TRAIN_SHAPES, PASS_SHAPES = 32, 8
"""Shapes of a run's training batches, and of one pass over the held-out or over the training rows."""
SHAPES = TRAIN_SHAPES + 2 * PASS_SHAPES
"""All of a run's: it trains, passes over the held-out rows and, for a reference, over the training rows.
(A method that scores prompts has no reference for these, and other shapes in that of the held-out rows.)"""
LENGTH_STEP, SCORED_STEP = 16, 64
"""P and T are rounded up to a multiple of the first, M to one of the second, before anything is merged."""
HEAD = 4
"""So many scored positions are as much work as one layer token."""


@dataclass(frozen=True)
class Shape:
    """B, P, T and M as in `mlx_align.batch.Batch`."""

    rows: int
    prompt: int
    branch: int
    scored: int

    def tokens(self, branches: int) -> int:
        """B * P + N * T, for k branches a row."""
        return self.rows * (self.prompt + branches * self.branch)

    def holds(self, other: Shape) -> bool:
        """Whether a batch of the other shape can be padded to this one."""
        return (
            self.rows == other.rows
            and self.prompt >= other.prompt
            and self.branch >= other.branch
            and self.scored >= other.scored
        )


@dataclass(frozen=True)
class Sizes:
    """What R rows need of a batch.

    Attributes:
        prompt: (R,) tokens of the prompt.
        branch: (R,) tokens of the longest branch.
        scored: (R,) tokens of all branches, and of the prompt but its first, if it is scored.
        branches: k, the same for every row.
        scores_prompt: `collate`'s.
    """

    prompt: Ints
    branch: Ints
    scored: Ints
    branches: int
    scores_prompt: bool = False

    @classmethod
    def of(cls, examples: Sequence[Example], *, scores_prompt: bool = False) -> Sizes:
        """The sizes of examples; `scores_prompt` is `collate`'s."""
        prompts = np.array([len(example.prompt_ids) for example in examples], np.int64)
        branches = [[len(ids) for ids in example.branch_ids] for example in examples]
        scored = np.array([sum(lengths) for lengths in branches], np.int64)
        return cls(
            prompt=prompts,
            branch=np.array([max(lengths) for lengths in branches], np.int64),
            scored=scored + prompts - 1 if scores_prompt else scored,
            branches=len(branches[0]) if branches else 1,
            scores_prompt=scores_prompt,
        )

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def lengths(self) -> Ints:
        """(R,) tokens of each row's prompt and longest branch."""
        return self.prompt + self.branch

    def padded(self) -> Ints:
        """(R, 2): P and T of each row in a batch of its own."""
        return np.stack([round_up(self.prompt, LENGTH_STEP), round_up(self.branch, LENGTH_STEP)], axis=1)

    def natural(self, order: Ints, bounds: Ints, step: int = LENGTH_STEP) -> Ints:
        """(batches, 4): the smallest B, P, T and M of batches, rounded up.

        Args:
            order: (R,) the rows, batch after batch.
            bounds: (batches + 1,) where each batch begins in `order`, and its end.
            step: P and T are multiples of this.
        """
        starts, rows = bounds[:-1], np.diff(bounds)
        branch = round_up(np.maximum.reduceat(self.branch[order], starts), step)
        scored = round_up(np.add.reduceat(self.scored[order], starts), SCORED_STEP)
        prompt = round_up(np.maximum.reduceat(self.prompt[order], starts), step)
        places = rows * (self.branches * branch + self.scores_prompt * prompt)
        return np.stack([rows, prompt, branch, np.minimum(scored, places)], axis=1)


class Shapes:
    """The shapes that a run's batches may have.

    Args:
        shapes: at least one for every number of rows.
        branches: k.
    """

    def __init__(self, shapes: Sequence[Shape], branches: int) -> None:
        self.all = tuple(sorted(shapes, key=lambda shape: (shape.tokens(branches), shape.scored)))

    @classmethod
    def planned(cls, natural: Ints, groups: Ints, limit: int, branches: int) -> Shapes:
        """At most `limit` shapes that hold all batches with little added work.

        Args:
            natural: (batches, 4) as `Sizes.natural` gives it.
            groups: (batches,) batches of one group have the same B, and only their shapes are merged.
            limit: at least the number of groups.
            branches: k.
        """
        rows = natural[:, 0]
        prices = np.stack([HEAD * rows, HEAD * rows * branches, np.ones_like(rows)], axis=1)
        merged = merge(Items.of(natural[:, 1:], prices, groups), limit)
        of_items = merged.prices[:, 0] // HEAD
        made = (Shape(*map(int, (b, *size))) for b, size in zip(of_items, merged.sizes, strict=True))
        return cls(list(dict.fromkeys(made)), branches)

    def fit(self, natural: Sequence[int]) -> Shape:
        """The smallest shape that holds a batch.

        Raises:
            ValueError: none does; the shapes were planned for other batches.
        """
        needed = Shape(*map(int, natural))
        for shape in self.all:
            if shape.holds(needed):
                return shape
        raise ValueError(f"no planned shape holds {needed}")


def round_up(length: Ints, multiple: int) -> Ints:
    """The next multiple, elementwise."""
    return -(-length // multiple) * multiple
