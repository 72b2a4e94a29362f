"""Scoring completions by several rewards. One that fails leaves NaN and a named failure, never a zero."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from mlx_align.rewards.base import Outcome, RewardError, Sampled, Tools
from mlx_align.rewards.specs import Spec

LARGEST = 1e6
"""The most that a reward may be, times its weight: beside a larger one all others are rounding errors."""
MESSAGE = 500
"""Longest message of a failure, in characters: a completion could make it as long as itself."""


@dataclass(frozen=True)
class Failure:
    """A reward that has no value for a completion.

    Attributes:
        reward: its label.
        index: which of the completions.
        message: why, in one line.
    """

    reward: str
    index: int
    message: str


@dataclass(frozen=True)
class Scored:
    """The rewards of N completions.

    Attributes:
        values: (N, R) float64, a column for each reward; NaN where it failed.
        total: (N,) float64, the weighted sum; NaN where a reward with a weight other than 0 failed,
            because a sum without it would pass for a bad completion.
        failures: one for each NaN in `values`.
    """

    values: NDArray[np.float64]
    total: NDArray[np.float64]
    failures: tuple[Failure, ...]


class Scorer:
    """The rewards of a run, at work; a context manager, for some hold processes open.

    Args:
        specs: at least one.
        tools: what the engine lends.

    Raises:
        AlignError: a reward cannot work on this machine or with these options.
    """

    def __init__(self, specs: Sequence[Spec], tools: Tools | None = None) -> None:
        self._specs = tuple(specs)
        with ExitStack() as stack:  # closes those that have started where a later one cannot
            self._running = []
            for spec in specs:
                running = spec.reward.start(spec.options, tools or Tools())
                stack.callback(running.close)
                self._running.append(running)
            self._open = stack.pop_all()

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns of `Scored.values` are called."""
        return tuple(spec.label for spec in self._specs)

    def score(self, samples: Sequence[Sampled]) -> Scored:
        """The values of completions. Never raises for what is in them."""
        values = np.full((len(samples), len(self._specs)), np.nan)
        failures = []
        for column, (spec, running) in enumerate(zip(self._specs, self._running, strict=True)):
            for index, outcome in enumerate(running.score(samples)):
                if (why := _failure(outcome, spec.weight)) is None:
                    values[index, column] = outcome
                else:
                    failures.append(Failure(spec.label, index, why))
        total = np.zeros(len(samples))
        for spec, of_reward in zip(self._specs, values.T, strict=True):
            if spec.weight:  # in one order for all: equal completions come to equal sums, to the last digit
                total += spec.weight * of_reward
        return Scored(values, total, tuple(failures))

    def close(self) -> None:
        """End the processes that rewards hold; harmless when repeated."""
        self._open.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _failure(outcome: Outcome, weight: float) -> str | None:
    """Why there is no value, in one line; None where there is one."""
    if isinstance(outcome, RewardError):
        return " ".join(str(outcome).split())[:MESSAGE]
    if not np.isfinite(outcome):
        return f"the value is {outcome}"
    return (
        None if abs(outcome * weight) <= LARGEST else f"the value is {outcome:g}, times {weight:g} too large"
    )
