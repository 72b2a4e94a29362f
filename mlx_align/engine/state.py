"""What the trainer knows besides the arrays: JSON in a checkpoint, and the best-so-far rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mlx_align.backends.base import Scores, World

HIGHER_IS_BETTER = {"loss": False, "accuracy": True, "margin": True, "reward": True}

UNSCORED = "unscored"
"""The metric that says which share of the answers no mean reward counts; where it is missing, none."""

UNSCORED_MORE = 0.05
"""By how much that share may be larger than in another evaluation, and their mean rewards still compare."""


@dataclass
class Window:
    """Sums over the micro-batches of the accumulation window that is being filled.

    Rows weigh the same however they were divided: metrics keep a sum over rows and a count of rows.
    """

    sums: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    tokens: int = 0
    padded: int = 0

    def add(self, scores: Scores, rows: int, tokens: int, padded: int) -> None:
        """Add one micro-batch."""
        for term, value in scores.sums.items():
            self.sums[term] = self.sums.get(term, 0.0) + value
        for name, values in scores.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + float(np.sum(values, dtype=np.float64))
        self.rows += rows
        self.tokens += tokens
        self.padded += padded

    def of_all(self, world: World) -> Window:
        """The sums of all ranks together."""
        parts = world.gather(asdict(self))
        sums, metrics = (total(part[group] for part in parts) for group in ("sums", "metrics"))
        return Window(sums, metrics, *(sum(part[n] for part in parts) for n in ("rows", "tokens", "padded")))

    def loss(self, counts: dict[str, float]) -> float:
        """The objective: each term's sum over its denominator."""
        return sum(value / counts[term] for term, value in self.sums.items())

    def means(self) -> dict[str, float]:
        """Each metric, averaged over rows."""
        return {name: value / self.rows for name, value in self.metrics.items()}


@dataclass
class TrainerState:
    """Where training stands. `position` counts micro-batches from the run's first.

    Attributes:
        begun: whether the model was evaluated as it was before training.
        step: optimiser updates done.
        position: micro-batches done; more than step * accumulate in the middle of a window.
        bad_updates: updates in a row that were skipped.
        best_value: the best evaluation's metric, None before the first.
        best_step: its step.
        best_checkpoint: its checkpoint's name.
        best_unscored: the share of its answers that could not be scored.
        least_unscored: the smallest such share of any evaluation.
        stale_evals: evaluations since the best.
        seconds: training time of all attempts.
        last_metrics: the newest evaluation.
        window: the open window's sums.
    """

    begun: bool = False
    step: int = 0
    position: int = 0
    bad_updates: int = 0
    best_value: float | None = None
    best_step: int | None = None
    best_checkpoint: str | None = None
    best_unscored: float = 0.0
    least_unscored: float = 1.0
    stale_evals: int = 0
    seconds: float = 0.0
    last_metrics: dict[str, float] = field(default_factory=dict)
    window: Window = field(default_factory=Window)

    def note_eval(self, metrics: dict[str, float], metric: str) -> bool:
        """Take note of an evaluation; True if it is the best so far. A value that is not finite never is.

        Nor is a mean reward of few answers, which may be the easy ones: only evaluations compare in which
        about as many answers (UNSCORED_MORE) could be scored as in any before. One that scores so many for
        the first time takes the place of a best that no longer compares, whatever the two means are.
        """
        self.last_metrics = metrics
        value, unscored = metrics[metric], metrics.get(UNSCORED, 0.0)
        self.least_unscored = min(self.least_unscored, unscored)
        most = self.least_unscored + UNSCORED_MORE
        sign = 1 if HIGHER_IS_BETTER[metric] else -1
        first = self.best_value is None or self.best_unscored > most
        better = first or sign * value > sign * (self.best_value or 0.0)
        if math.isfinite(value) and unscored <= most and better:
            self.best_value, self.best_step, self.stale_evals = value, self.step, 0
            self.best_unscored = unscored
            return True
        self.stale_evals += 1
        return False

    def to_json(self) -> dict[str, Any]:
        """As JSON values. Measured numbers become strings: JSON has no way to say that one is not finite."""
        tree = asdict(self)
        tree["window"].update({group: _to_text(tree["window"][group]) for group in ("sums", "metrics")})
        return {**tree, "last_metrics": _to_text(self.last_metrics)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> TrainerState:
        """What `to_json` wrote, bit for bit."""
        window = dict(tree["window"])
        window.update({group: _from_text(window[group]) for group in ("sums", "metrics")})
        last = _from_text(tree["last_metrics"])
        return cls(**{**tree, "last_metrics": last, "window": Window(**window)})


def total(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Numbers of the same name added up."""
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _to_text(numbers: dict[str, float]) -> dict[str, str]:
    return {name: repr(value) for name, value in numbers.items()}


def _from_text(texts: dict[str, str]) -> dict[str, float]:
    return {name: float(text) for name, text in texts.items()}
