"""From a rollout to the trainer's micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import Policy
from mlx_align.batch import Batch
from mlx_align.data import Example, collate
from mlx_align.engine.rollouts.rollout import Rollout
from mlx_align.engine.rollouts.shapes import RolloutShapes


@dataclass(frozen=True)
class Batches:
    """Cuts rollouts into batches of adjacent prompts.

    Attributes:
        examples: the training rows.
        shapes: of the run's batches.
        mask_truncated: leave truncated completions out of the loss.
    """

    examples: Sequence[Example]
    shapes: RolloutShapes
    mask_truncated: bool

    def of(self, rollout: Rollout) -> list[Batch]:
        """The batches, each with what the rollout knows of its completions."""
        step = self.shapes.rows
        starts = range(0, len(rollout.rows), step)
        return [self._batch(rollout, range(start, start + step)) for start in starts]

    def _batch(self, rollout: Rollout, groups: range) -> Batch:
        rows = rollout.rows[groups.start : groups.stop]
        answered = [
            replace(self.examples[row], branch_ids=ids)
            for row, ids in zip(rows, rollout.completions(groups), strict=True)
        ]
        batch = collate(answered, shape=self.shapes.fit(answered))
        members, width = rollout.members(groups), batch.branch_ids.shape[1]
        old, ref = rollout.old_logps, rollout.ref_logps
        mask = batch.response_mask
        if self.mask_truncated:
            mask = mask * ~rollout.truncated[members, None]
        return replace(
            batch,
            response_mask=mask.astype(np.float32),
            advantages=rollout.advantages[members],
            old_logps=None if old is None else _fitting(old[members], width),
            ref_logps=None if ref is None else _fitting(ref[members], width),
        )


def scored(policy: Policy, batches: Sequence[Batch], width: int, temperature: float) -> NDArray[np.float32]:
    """(N, width) log-probabilities of all completions, at the temperature they were drawn at."""
    parts = (policy.logps(batch, temperature=temperature) for batch in batches)
    return np.concatenate([_fitting(part, width) for part in parts])


def _fitting(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """(N, width): cut, or padded with zeros; what is cut is padding."""
    return np.pad(values[:, :width], [(0, 0), (0, max(0, width - values.shape[1]))])
