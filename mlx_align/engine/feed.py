"""Where the trainer's micro-batches come from: rows of data, or rollouts that the policy samples.

Position and step decide everything a feed gives, together with the policy's weights and, in the middle of a
rollout, with what a checkpoint has of it. So a resumed run is fed what the uninterrupted one was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mlx_align.backends.base import Objective, Policy, State, World
from mlx_align.batch import Batch
from mlx_align.data import Example


class Feed(Protocol):
    """Micro-batches by position, counted from the run's first.

    Attributes:
        train, valid: the rows that are learnt from, and those that are held out.
        objective: what the batches are for.
    """

    train: Sequence[Example]
    valid: Sequence[Example]
    objective: Objective

    @property
    def total_steps(self) -> int:
        """Optimiser updates in the whole run."""

    def window(self, step: int) -> range:
        """The positions of an update's micro-batches."""

    def epoch(self, position: int) -> float:
        """Passes over the data after `position` micro-batches."""

    def prepare(self, policy: Policy, step: int, stopped: Callable[[], bool]) -> bool:
        """Have the window of an update ready.

        Args:
            policy: as it is before the update.
            step: updates done.
            stopped: whether a stop was requested; asked where this takes long.

        Returns:
            False if it was given up because of a stop.
        """

    def window_counts(self, step: int) -> dict[str, float]:
        """What this rank adds to the loss's denominators over the window of an update."""

    def batch(self, position: int) -> Batch | None:
        """The rank's part of a micro-batch of the window that is ready; None where it has none."""

    def rows(self, step: int) -> tuple[str, ...]:
        """The names of the rows in the window of an update, those of all ranks."""

    def facts(self, step: int) -> dict[str, float]:
        """What is known of an update's window without the loss, for display."""

    def teaches(self, step: int) -> bool:
        """Whether an update's window has something to learn, so that its gradient cannot be zero."""

    def silent(self, step: int) -> bool:
        """Whether the gradient of an update's window is exactly zero: then nothing may move the weights."""

    def evaluate(
        self, policy: Policy, progress: Callable[[int, int], None], world: World
    ) -> dict[str, float]:
        """The metrics of the held-out rows, of which there are some."""

    def state(self, position: int) -> State:
        """What a resume from this position needs besides the policy."""

    def restore(self, state: State) -> None:
        """Take back what `state` gave, from among other arrays."""
