"""What was sampled once and is trained on, and how a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.backends.base import State

PREFIX = "rollout."
Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Rollout:
    """Q prompts with G completions each, N = Q * G; the completions of a prompt are adjacent.

    Attributes:
        number: counted from the run's first, 0.
        rows: (Q,) which training rows were asked.
        ids: (N, L) int32 completions exactly as sampled, right-padded with 0.
        lengths: (N,) tokens of each, the token that ended it included.
        truncated: (N,) whether it was cut off.
        rewards: (N,) float64 its weighted reward, NaN where there is none.
        advantages: (N,) float32.
        old_logps: (N, L) under the policy that sampled, or None where they are not needed.
        ref_logps: (N, L) under the reference, or None likewise.
    """

    number: int
    rows: NDArray[np.int64]
    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    rewards: NDArray[np.float64]
    advantages: Floats32
    old_logps: Floats32 | None = None
    ref_logps: Floats32 | None = None

    @property
    def group_size(self) -> int:
        """G."""
        return len(self.ids) // len(self.rows)

    def members(self, groups: range) -> slice:
        """The completions of adjacent prompts."""
        return slice(groups.start * self.group_size, groups.stop * self.group_size)

    def completions(self, groups: range) -> list[tuple[tuple[int, ...], ...]]:
        """For each of these prompts, the token ids of its completions."""
        starts = range(groups.start * self.group_size, groups.stop * self.group_size, self.group_size)
        return [tuple(self._completion(i) for i in range(at, at + self.group_size)) for at in starts]

    def _completion(self, which: int) -> tuple[int, ...]:
        return tuple(self.ids[which, : self.lengths[which]].tolist())

    def state(self) -> State:
        """Named arrays, the names beginning with PREFIX."""
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        return {f"{PREFIX}{name}": np.asarray(value) for name, value in arrays.items()}

    @classmethod
    def from_state(cls, state: State) -> Rollout | None:
        """The rollout among the arrays of a checkpoint; None if it has none."""
        found: dict[str, Any] = {
            name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)
        }
        return cls(**{**found, "number": found["number"].item()}) if found else None


def padded(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids of several lengths as one right-padded array, and their lengths."""
    lengths = np.array([len(row) for row in rows], np.int64)
    ids = np.zeros((len(rows), int(lengths.max())), np.int32)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    return ids, lengths
