"""Which prompts a rollout asks: a pure function of the run's seed and the rollout's number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Prompts:
    """R rows in a new random order each epoch; rollouts of Q prompts follow each other through the epochs.

    Attributes:
        rows: R, at least 1.
        each: Q, the prompts of a rollout. Where Q is above R a prompt is asked again, for other answers.
        seed: the run's.
    """

    rows: int
    each: int
    seed: int

    def of(self, number: int) -> tuple[int, ...]:
        """The rows of a rollout, counted from 0."""
        return tuple(self._row(place) for place in range(number * self.each, (number + 1) * self.each))

    def spare(self, number: int) -> Iterator[int]:
        """What a rollout may be refilled with: all rows once, at random, its own last."""
        own = set(self.of(number))
        order = seeded(self.seed, _SPARE, number).permutation(self.rows).tolist()
        yield from sorted(order, key=lambda row: row in own)

    def _row(self, place: int) -> int:
        epoch, within = divmod(place, self.rows)
        return _order(self.rows, self.seed, epoch)[within]


_ORDER, _SPARE, _DRAW = range(3)
"""What random numbers are for: each purpose has a stream of its own."""


def seeded(seed: int, *key: int) -> np.random.Generator:
    """The generator of one purpose."""
    return np.random.default_rng([seed, len(key), *key])  # numpy itself ignores zeros at the end


def draw_seed(seed: int, *key: int) -> int:
    """A seed for a policy's sampling, another for every key, below 2**31."""
    return int(seeded(seed, _DRAW, *key).integers(2**31))


@lru_cache(maxsize=4)
def _order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(seeded(seed, _ORDER, epoch).permutation(rows).tolist())
