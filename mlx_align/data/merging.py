"""Few sizes that hold many: agglomerative merging by added work, in integers so that every machine agrees."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MOST = 1024
"""Items that are compared pair by pair; more are first brought together with their nearest."""
FINENESS = (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
"""Levels in an octave to which sizes are rounded to find the nearest: the first that leaves MOST is taken."""
NEVER, RELUCTANTLY = 2**62, 2**60
"""Costs of merging two groups, and of a merge above the ceiling."""


@dataclass(frozen=True)
class Items:
    """S different sizes of D dimensions. The work of one is its dot product with its prices.

    Attributes:
        sizes: (S, D).
        prices: (S, D), the same for all items of a group.
        groups: (S,) only items of one group are merged.
        weights: (S,) how many things have this size.
    """

    sizes: Ints
    prices: Ints
    groups: Ints
    weights: Ints

    @classmethod
    def of(cls, sizes: Ints, prices: Ints, groups: Ints) -> Items:
        """Equal things counted together; all arguments have one row a thing."""
        return cls(sizes, prices, groups, np.ones(len(sizes), np.int64)).together(sizes)

    def together(self, keys: Ints) -> Items:
        """One item, the elementwise maximum, for those of a group with equal rows of `keys`, (S, ...)."""
        labels = np.concatenate([self.groups[:, None], keys], axis=1)
        _, first, label = np.unique(labels, axis=0, return_index=True, return_inverse=True)
        label = label.reshape(-1)
        sizes, weights = self.sizes[first].copy(), np.zeros(len(first), np.int64)
        np.maximum.at(sizes, label, self.sizes)
        np.add.at(weights, label, self.weights)
        return Items(sizes, self.prices[first], self.groups[first], weights)

    @property
    def work(self) -> Ints:
        """(S,) the work of one thing of each size."""
        work: Ints = np.sum(self.sizes * self.prices, axis=1)
        return work


def merge(items: Items, limit: int, ceiling: int = RELUCTANTLY) -> Items:
    """At most `limit` items that hold all the given ones, merging two at a time where it adds least work.

    Args:
        items: at least one.
        limit: at least the number of groups.
        ceiling: a merged item of more work than this is made only where no other merge is left.
    """
    if len(np.unique(items.groups)) > limit:
        raise ValueError(f"{len(np.unique(items.groups))} groups cannot be merged to {limit} items")
    items = _coarsened(items, max(limit, MOST))
    alive = np.ones(len(items.sizes), bool)
    sizes, weights = items.sizes.copy(), items.weights.copy()  # change in place, and so does `current`
    current = replace(items, sizes=sizes, weights=weights)
    costs = np.stack([_costs(current, which, ceiling) for which in range(len(sizes))])
    for _ in range(len(sizes) - limit):
        into, other = divmod(int(costs.argmin()), len(sizes))
        sizes[into] = np.maximum(sizes[into], sizes[other])
        weights[into] += weights[other]
        alive[other] = False
        renewed = np.where(alive, _costs(current, into, ceiling), NEVER)
        costs[into], costs[:, into] = renewed, renewed
        costs[other], costs[:, other] = NEVER, NEVER
    return Items(sizes[alive], items.prices[alive], items.groups[alive], weights[alive])


def _costs(items: Items, which: int, ceiling: int) -> Ints:
    """(S,) the work that merging item `which` with each other one adds."""
    together = replace(items, sizes=np.maximum(items.sizes, items.sizes[which])).work
    work = items.work
    costs: Ints = items.weights * (together - work) + items.weights[which] * (together - work[which])
    costs[together > ceiling] += RELUCTANTLY
    costs[items.groups != items.groups[which]] = NEVER
    costs[which] = NEVER
    return costs


def _coarsened(items: Items, most: int) -> Items:
    """At most so many items where the levels allow it: those that are nearest each other brought together."""
    coarse = items
    for fineness in FINENESS:
        if len(coarse.sizes) <= most:
            break
        octave = np.frexp(items.sizes)[1].astype(np.int64)
        level = -(-items.sizes * fineness // 2 ** (octave - 1))
        coarse = items.together(octave * 4 * FINENESS[0] + level)
    return coarse
