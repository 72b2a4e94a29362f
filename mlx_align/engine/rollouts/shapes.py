"""The shapes of a rollout's batches, of which there must be few although nobody knows them beforehand.

Every new shape is a new graph for a backend to trace (`data.shapes`), and how long completions get is seen
only when they are there. So prompts and completions are rounded up to a quarter of the most they can be, and
scored positions to a third, which is at most 48 shapes and in practice a handful.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_align.data import Example, Shape
from mlx_align.data.shapes import LENGTH_STEP, SCORED_STEP

PARTS, SCORED_PARTS = 4, 3


@dataclass(frozen=True)
class RolloutShapes:
    """The shapes of one run's batches.

    Attributes:
        rows: prompts in a batch.
        branches: completions of each.
        prompt: tokens of the longest prompt.
        branch: tokens of the longest completion there may be.
    """

    rows: int
    branches: int
    prompt: int
    branch: int

    @property
    def largest(self) -> Shape:
        """The shape of a batch of the longest prompts and completions."""
        branch = _rounded(self.branch, self.branch, LENGTH_STEP, PARTS)
        scored = self.rows * self.branches * branch
        prompt = _rounded(self.prompt, self.prompt, LENGTH_STEP, PARTS)
        return Shape(self.rows, prompt, branch, scored)

    def fit(self, examples: Sequence[Example]) -> Shape:
        """The shape that a batch of prompts with their completions is padded to."""
        largest = self.largest
        prompt = max(len(example.prompt_ids) for example in examples)
        lengths = [len(ids) for example in examples for ids in example.branch_ids]
        branch = _rounded(max(lengths), self.branch, LENGTH_STEP, PARTS)
        most = len(lengths) * branch
        scored = min(most, _rounded(sum(lengths), most, SCORED_STEP, SCORED_PARTS))
        rounded = _rounded(prompt, self.prompt, LENGTH_STEP, PARTS)
        return Shape(self.rows, min(largest.prompt, rounded), branch, scored)


def _rounded(length: int, most: int, step: int, parts: int) -> int:
    """The length rounded up to a multiple of such a part of the most, and of the step."""
    part = -(-most // (parts * step)) * step
    return -(-length // part) * part
