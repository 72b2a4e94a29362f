"""A run's numbers as arrays that grow with its log, ready to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlx_align.events import Eval, Number, Rollout, Step
from mlx_align.run_state import History, RunState
from mlx_align_cli.display.facts import measured

Array = NDArray[np.float64]
Drawable = Step | Eval | Rollout
Drawn = TypeVar("Drawn", Step, Eval, Rollout)


@dataclass(frozen=True)
class Series:
    """One curve: (n,) float64 each; a value that was not finite or not measured is NaN.

    Attributes:
        step: the update.
        seconds: since the run's first event.
        value: the measured value.
    """

    step: Array
    seconds: Array
    value: Array


Curves = Mapping[tuple[str, str], Series]
"""(source, metric) -> series; the source is "train", "valid" or "rollout"."""


class Table:
    """Columns of equal length that only grow. It gives away views, which later growth leaves alone."""

    def __init__(self) -> None:
        self._length = 0
        self._columns: dict[str, Array] = {}

    def extend(self, columns: Mapping[str, Sequence[Number]]) -> None:
        """Add rows; a column that is new, or missing now, has NaN where it was not given."""
        count = len(next(iter(columns.values())))
        length = self._length + count
        for name in {*columns, *self._columns}:
            kept = self._columns.get(name)
            if kept is None or len(kept) < length:
                grown = np.full(max(256, 2 * length), np.nan)
                if kept is not None:
                    grown[: self._length] = kept[: self._length]
                self._columns[name] = kept = grown
            if name in columns:
                kept[self._length : length] = np.array(columns[name], dtype=np.float64)
        self._length = length

    def series(self) -> dict[str, Series]:
        """Every column against the columns "step" and "seconds"."""
        views = {name: column[: self._length] for name, column in self._columns.items()}
        if not views:
            return {}
        step, seconds = views.pop("step"), views.pop("seconds")
        return {name: Series(step, seconds, value) for name, value in views.items()}


@dataclass
class Columns:
    """Keeps arrays in step with a run's state.

    It belongs to one thread; what `curves` gives may go anywhere.
    """

    _taken: dict[str, tuple[Table, int, Drawable | None]] = field(default_factory=dict)
    """Source -> its table, how many events are in it, and the newest of these."""

    def follow(self, state: RunState) -> None:
        """Take in what is new; all of a source anew where a resume has taken something back."""
        self._grow("train", state.steps, _of_steps, state.first_t)
        self._grow("valid", state.evals, _of_evals, state.first_t)
        self._grow("rollout", state.rollouts, _of_rollouts, state.first_t)

    def _grow(
        self,
        source: str,
        history: History[Drawn],
        values: Callable[[Sequence[Drawn]], dict[str, list[Number]]],
        start: float,
    ) -> None:
        table, count, newest = self._taken.get(source, (Table(), 0, None))
        if count and (len(history) < count or history[count - 1] is not newest):
            table, count = Table(), 0
        new = history.since(count)
        if new:
            axes: dict[str, list[Number]] = {
                "step": [event.step for event in new],
                "seconds": [event.t - start for event in new],
            }
            table.extend({**axes, **values(new)})
        self._taken[source] = (table, len(history), history.last())

    def curves(self) -> dict[tuple[str, str], Series]:
        """All curves as they are now."""
        return {
            (source, name): series
            for source, (table, _, _) in self._taken.items()
            for name, series in table.series().items()
        }


def _of_steps(steps: Sequence[Step]) -> dict[str, list[Number]]:
    columns = _of_metrics([step.metrics for step in steps])
    columns["loss"] = [step.loss for step in steps]
    columns["grad_norm"] = [step.grad_norm for step in steps]
    columns["learning_rate"] = [step.learning_rate for step in steps]
    columns["tokens/s"] = [step.tokens / step.seconds if step.seconds > 0 else None for step in steps]
    return columns


def _of_evals(evals: Sequence[Eval]) -> dict[str, list[Number]]:
    return _of_metrics([e.metrics for e in evals])


def _of_metrics(metrics: Sequence[Mapping[str, Number]]) -> dict[str, list[Number]]:
    columns = {name: [each.get(name) for each in metrics] for name in set[str]().union(*metrics)}
    if "accuracy" in columns:  # the one that `measured` looks at more closely
        columns["accuracy"] = [measured(each, "accuracy") for each in metrics]
    return columns


def _of_rollouts(rollouts: Sequence[Rollout]) -> dict[str, list[Number]]:
    return {
        "reward": [r.reward.mean for r in rollouts],
        "length": [r.length_mean for r in rollouts],
        "truncated": [r.truncated for r in rollouts],
        "no_signal": [r.no_signal for r in rollouts],
    }
