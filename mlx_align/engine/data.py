"""The tokenised rows of a run, and its micro-batches by position."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_align import embedded, methods
from mlx_align.backends.base import Objective, Policy, State, World
from mlx_align.batch import Batch
from mlx_align.config import RunConfig, TrainConfig
from mlx_align.data import BatchPlan, Example, Shape, Sizes, collate, eval_batches
from mlx_align.engine.evaluation import evaluate
from mlx_align.engine.state import total
from mlx_align.paths import typed

RefLogps = Sequence[Sequence[NDArray[np.float32]]]
"""For each example, for each of its branches, the (T_i,) reference log-probabilities."""


@dataclass
class RunData:
    """Training and held-out examples, and how they are divided into micro-batches and among ranks.

    `train_ref` and `valid_ref` are the reference log-probabilities, set once they are computed.
    """

    train: Sequence[Example]
    valid: Sequence[Example]
    config: TrainConfig
    objective: Objective
    rank: int = 0
    ranks: int = 1
    train_ref: RefLogps | None = None
    valid_ref: RefLogps | None = None
    _open: dict[int, Batch | None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._scores_prompt = self.objective.method.scores_prompt(self.objective.hp)
        sizes = Sizes.of(self.train, scores_prompt=self._scores_prompt)
        self._plan = BatchPlan(sizes, self.config, self.rank, self.ranks)

    @property
    def oversized(self) -> tuple[str, ...]:
        """The names of training rows that are above the budget of tokens, each in a batch of its own."""
        return tuple(self.train[row].name for row in self._plan.oversized)

    @property
    def end(self) -> int:
        """Micro-batches of each rank in the whole run."""
        return self._plan.end

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
        return self._plan.epoch(position)

    def batch(self, position: int) -> Batch | None:
        """The rank's part of a micro-batch: a pure function of the run's seed and the position.

        None if what is left has no rows for this one of several ranks.
        """
        return self._open[position] if position in self._open else self._batch(position)

    def rows(self, step: int) -> tuple[str, ...]:
        """The names of the rows in the accumulation window of an update, those of all ranks."""
        return tuple(self.train[i].name for at in self.window(step) for i in self._plan.all_indices(at))

    def prepare(self, policy: Policy, step: int, stopped: Callable[[], bool]) -> bool:
        """Rows are ready at any time."""
        return True

    def facts(self, step: int) -> dict[str, float]:
        """Nothing that the loss does not say."""
        return {}

    def teaches(self, step: int) -> bool:
        """Every row has something to say."""
        return True

    def silent(self, step: int) -> bool:
        """Never."""
        return False

    def state(self, position: int) -> State:
        """The position is enough."""
        return {}

    def restore(self, state: State) -> None:
        """There is nothing to take."""

    def evaluate(
        self, policy: Policy, progress: Callable[[int, int], None], world: World
    ) -> dict[str, float]:
        """Loss, its metrics and KL over all held-out rows."""
        return evaluate(policy, self.objective, self.eval_batches(), progress, world)

    def window_counts(self, step: int) -> dict[str, float]:
        """What this rank adds to the loss's denominators over the accumulation window of an update.

        The window is kept for `batch`.
        """
        self._open = {position: self._batch(position) for position in self.window(step)}
        method, hp = self.objective.method, self.objective.hp
        return total(method.counts(batch, hp) for batch in self._open.values() if batch is not None)

    def eval_batches(self) -> list[Batch]:
        """The held-out rows, each once."""
        groups = eval_batches(self.valid, self.config, scores_prompt=self._scores_prompt)
        return [self._collate(self.valid, self.valid_ref, indices, shape) for indices, shape in groups]

    def _batch(self, position: int) -> Batch | None:
        indices = self._plan.indices(position)
        return (
            self._collate(self.train, self.train_ref, indices, self._plan.shape(position))
            if indices
            else None
        )

    def _collate(
        self, examples: Sequence[Example], ref: RefLogps | None, indices: Sequence[int], shape: Shape
    ) -> Batch:
        return collate(
            [examples[i] for i in indices],
            scores_prompt=self._scores_prompt,
            ref_logps=None if ref is None else [ref[i] for i in indices],
            shape=shape,
        )


def data_path(config: RunConfig) -> Path:
    """The file or folder the rows come from; "sample" is the embedded one that fits the method."""
    if config.data.path == embedded.SAMPLE and not Path(embedded.SAMPLE).exists():
        return embedded.sample_for(methods.get(config.method.name).rows)
    return typed(config.data.path)


def fingerprint(examples: Sequence[Example]) -> str:
    """A hash of every token id, in order."""
    digest = hashlib.sha256()
    for example in examples:
        for ids in (example.prompt_ids, *example.branch_ids):
            digest.update(np.array([len(ids), *ids], np.int64).tobytes())
    return digest.hexdigest()
