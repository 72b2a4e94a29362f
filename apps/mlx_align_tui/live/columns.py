"""A run's numbers as arrays that grow with its log, ready to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlx_align.events import Eval, Number, Rollout
from mlx_align.run_state import History, RunState, Steps
from mlx_align_cli.display.facts import LEFT_OUT, course, measured

Array = NDArray[np.float64]
Drawn = TypeVar("Drawn", bound=History[Any])


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

    def extend(self, columns: Mapping[str, Sequence[Number] | Array]) -> None:
        """Add rows; where a column is not given, before or now, it has what `LEFT_OUT` says, else NaN."""
        count = len(next(iter(columns.values())))
        length = self._length + count
        for name in {*columns, *self._columns}:
            kept = self._columns.get(name)
            if kept is None or len(kept) < length:
                grown = np.full(max(256, 2 * length), LEFT_OUT.get(name, np.nan))
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

    _taken: dict[str, tuple[Table, History[Any]]] = field(default_factory=dict)
    """Source -> its table, and the events that are in it."""

    def follow(self, state: RunState) -> None:
        """Take in what is new; all of a source anew where a resume has taken something back."""
        self._grow("train", state.steps, _of_steps, state.first_t)
        self._grow("valid", state.evals, _of_evals, state.first_t)
        self._grow("rollout", state.rollouts, _of_rollouts, state.first_t)

    def _grow(
        self,
        source: str,
        history: Drawn,
        values: Callable[[Drawn, int], dict[str, list[Number]]],
        start: float,
    ) -> None:
        table, taken = self._taken.get(source, (Table(), type(history)()))
        if not history.continues(taken):
            table, taken = Table(), type(history)()
        if len(history) > len(taken):
            columns = values(history, len(taken))
            times = np.array(columns.pop("t"), dtype=np.float64)
            table.extend({**columns, "seconds": times - start})
        self._taken[source] = (table, history)

    def curves(self) -> dict[tuple[str, str], Series]:
        """All curves as they are now."""
        return {
            (source, name): series
            for source, (table, _) in self._taken.items()
            for name, series in table.series().items()
        }


def _of_steps(steps: Steps, start: int) -> dict[str, list[Number]]:
    pairs = zip(steps.column("tokens", start), steps.column("seconds", start), strict=True)
    fields = {name: steps.column(name, start) for name in ("step", "t", "loss", "grad_norm", "learning_rate")}
    speed: list[Number] = [tokens / seconds if seconds > 0 else None for tokens, seconds in pairs]
    return {**{name: course(steps, name, start) for name in steps.metrics}, **fields, "tokens/s": speed}


def _of_evals(evals: History[Eval], start: int) -> dict[str, list[Number]]:
    new = evals.since(start)
    names = set[str]().union(*(each.metrics for each in new))
    return {**_axes(new), **{name: [measured(each.metrics, name) for each in new] for name in names}}


def _of_rollouts(rollouts: History[Rollout], start: int) -> dict[str, list[Number]]:
    new = rollouts.since(start)
    return {
        **_axes(new),
        "reward": [r.reward.mean for r in new],
        "length": [r.length_mean for r in new],
        "truncated": [r.truncated for r in new],
        "no_signal": [r.no_signal for r in new],
    }


def _axes(events: Sequence[Eval] | Sequence[Rollout]) -> dict[str, list[Number]]:
    return {"step": [event.step for event in events], "t": [event.t for event in events]}
