"""A run's numbers as arrays that grow with its log, ready to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mlx_align.events import Eval, Number, Rollout, RunStarted, RunState, Step
from mlx_align_cli.display.facts import measured, train_value

Array = NDArray[np.float64]
TREATED = ("loss", "accuracy")
"""Metrics that `train_value` treats in a way of their own; the others are taken as they are, for speed."""


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

    _tables: dict[str, Table] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    _started: RunStarted | None = None

    def follow(self, state: RunState) -> None:
        """Take in what is new; all anew where a resume has taken something back."""
        lengths = {
            "train": len(state.steps), "valid": len(state.evals), "rollout": len(state.rollouts)
        }  # fmt: skip
        if state.started is not self._started or any(lengths[k] < n for k, n in self._seen.items()):
            self._tables, self._seen, self._started = {}, {}, state.started
        start = state.first_t
        steps = [state.steps[n] for n in range(self._seen.get("train", 0), lengths["train"])]
        evals = [state.evals[n] for n in range(self._seen.get("valid", 0), lengths["valid"])]
        rollouts = [state.rollouts[n] for n in range(self._seen.get("rollout", 0), lengths["rollout"])]
        self._add("train", steps and _of_steps(steps), steps, start)
        self._add("valid", evals and _of_evals(evals), evals, start)
        self._add("rollout", rollouts and _of_rollouts(rollouts), rollouts, start)
        self._seen = lengths

    def _add(
        self,
        source: str,
        values: Mapping[str, Sequence[Number]] | Sequence[object],
        events: Sequence[Step] | Sequence[Eval] | Sequence[Rollout],
        start: float,
    ) -> None:
        if isinstance(values, Mapping):
            axes: dict[str, Sequence[Number]] = {
                "step": [e.step for e in events],
                "seconds": [e.t - start for e in events],
            }
            self._tables.setdefault(source, Table()).extend({**axes, **values})

    def curves(self) -> dict[tuple[str, str], Series]:
        """All curves as they are now."""
        return {
            (source, name): series
            for source, table in self._tables.items()
            for name, series in table.series().items()
        }


def _of_steps(steps: Sequence[Step]) -> dict[str, list[Number]]:
    names = {name for step in (steps[0], steps[-1]) for name in step.metrics}
    columns: dict[str, list[Number]] = {
        name: [train_value(step, name) if name in TREATED else step.metrics.get(name) for step in steps]
        for name in {"loss", *names}
    }
    columns["grad_norm"] = [step.grad_norm for step in steps]
    columns["learning_rate"] = [step.learning_rate for step in steps]
    columns["tokens/s"] = [step.tokens / step.seconds if step.seconds > 0 else None for step in steps]
    return columns


def _of_evals(evals: Sequence[Eval]) -> dict[str, list[Number]]:
    names = {name for e in evals for name in e.metrics}
    return {name: [measured(e.metrics, name) for e in evals] for name in names}


def _of_rollouts(rollouts: Sequence[Rollout]) -> dict[str, list[Number]]:
    return {
        "reward": [r.reward.mean for r in rollouts],
        "length": [r.length_mean for r in rollouts],
        "truncated": [r.truncated for r in rollouts],
        "no_signal": [r.no_signal for r in rollouts],
    }
