"""The tokenised rows of a run, and its micro-batches by position."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import Objective
from mlx_align.batch import Batch
from mlx_align.config import TrainConfig
from mlx_align.data import BatchPlan, Example, collate, eval_batches

RefLogps = Sequence[Sequence[NDArray[np.float32]]]
"""For each example, for each of its branches, the (T_i,) reference log-probabilities."""


@dataclass
class RunData:
    """Training and held-out examples, and how they are divided into micro-batches.

    `train_ref` and `valid_ref` are the reference log-probabilities, set once they are computed.
    """

    train: Sequence[Example]
    valid: Sequence[Example]
    config: TrainConfig
    objective: Objective
    train_ref: RefLogps | None = None
    valid_ref: RefLogps | None = None

    def __post_init__(self) -> None:
        lengths = [example.length for example in self.train]
        self._plan = BatchPlan(lengths, self.config.batch_size, self.config.seed)
        self._scores_prompt = self.objective.method.scores_prompt(self.objective.hp)

    @property
    def end(self) -> int:
        """Micro-batches in the whole run."""
        if self.config.steps is not None:
            return self.config.steps * self.config.accumulate
        epochs = self.config.epochs or 0.0  # the config has exactly one of the two
        return max(1, math.ceil(epochs * self._plan.per_epoch))

    @property
    def total_steps(self) -> int:
        """Optimiser updates in the whole run."""
        return math.ceil(self.end / self.config.accumulate)

    def window(self, step: int) -> range:
        """The positions of an update's micro-batches; the last window ends with the last epoch."""
        first = step * self.config.accumulate
        return range(first, min(first + self.config.accumulate, self.end))

    def epoch(self, position: int) -> float:
        """Passes over the data after `position` micro-batches."""
        return position / self._plan.per_epoch

    def batch(self, position: int) -> Batch:
        """The micro-batch at a position: a pure function of the run's seed and the position."""
        return self._collate(self.train, self._plan.indices(position), self.train_ref)

    def window_counts(self, step: int) -> dict[str, float]:
        """The loss's denominators over the accumulation window of an update."""
        counts: dict[str, float] = {}
        for position in self.window(step):
            for term, count in self.counts(self.batch(position)).items():
                counts[term] = counts.get(term, 0.0) + count
        return counts

    def counts(self, batch: Batch) -> dict[str, float]:
        """The loss's denominators of one batch."""
        return self.objective.method.counts(batch, self.objective.hp)

    def eval_batches(self) -> list[Batch]:
        """The held-out rows, each once."""
        groups = eval_batches([example.length for example in self.valid], self.config.batch_size)
        return [self._collate(self.valid, indices, self.valid_ref) for indices in groups]

    def _collate(self, examples: Sequence[Example], indices: Sequence[int], ref: RefLogps | None) -> Batch:
        return collate(
            [examples[i] for i in indices],
            scores_prompt=self._scores_prompt,
            ref_logps=None if ref is None else [ref[i] for i in indices],
        )


def fingerprint(examples: Sequence[Example]) -> str:
    """A hash of every token id, in order."""
    digest = hashlib.sha256()
    for example in examples:
        for ids in (example.prompt_ids, *example.branch_ids):
            digest.update(np.array([len(ids), *ids], np.int64).tobytes())
    return digest.hexdigest()
