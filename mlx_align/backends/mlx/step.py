"""The functions that a policy calls for every batch: pure, so that MLX can compile them.

A function is traced once for every new set of shapes and then replayed: on a GPU that saves most of the
Python time of a step and fuses its small kernels. What changes from call to call (the adapter, the batch,
the denominators) comes in as arguments; the frozen base is part of the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_align.backends.base import Objective
from mlx_align.backends.mlx.arrays import Arrays
from mlx_align.backends.mlx.forward import Forward, Inputs
from mlx_align.backends.mlx.lora import KeyedDropout, set_keys
from mlx_align.backends.mlx.ops import MlxOps
from mlx_align.backends.mlx.substitutes import Scope
from mlx_align.batch import Batch
from mlx_align.methods.base import Loss

XP = MlxOps()


def to_arrays(batch: Batch) -> Arrays:
    """A numpy batch as named MLX arrays; the rows' names stay behind."""
    named = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "rows"}
    return {name: mx.array(value) for name, value in named.items() if value is not None}


def to_batch(arrays: Arrays) -> Batch:
    """What `to_arrays` took apart; its rows have no names."""
    rows = ("",) * arrays["prompt_lens"].shape[0]
    return Batch(**{"ref_logps": None, **arrays}, rows=rows)


@dataclass
class Functions:
    """The traced functions of one model.

    Args:
        model: the model with its adapter; its trainable parameters are replaced while a function is traced.
        forward: how it reads a batch.
        compiled: whether MLX compiles them.
        dropouts: the layers that draw random numbers; they get their keys with every batch.
        scope: opened while a gradient is traced, for example to checkpoint the attention.

    Attributes:
        traces: how many traces have been made so far: one for each function and set of shapes.
    """

    model: nn.Module
    forward: Forward
    compiled: bool
    dropouts: list[KeyedDropout]
    scope: Scope = nullcontext
    traces: int = 0

    def __post_init__(self) -> None:
        self._made: dict[Any, Callable[..., Any]] = {}

    def logps(self, inputs: Inputs, arrays: Arrays) -> mx.array:
        """(N, T) log-probabilities, without gradient."""

        def pure(adapter: Arrays, inputs: Inputs, arrays: Arrays) -> mx.array:
            self._put(adapter)
            return self.forward.logps(inputs, to_batch(arrays), grad=False)

        self.model.eval()
        result: mx.array = self._call("logps", pure, inputs, arrays)
        return result

    def scores(self, objective: Objective, inputs: Inputs, arrays: Arrays) -> tuple[Arrays, Arrays, mx.array]:
        """The loss of a batch (sums and metrics) and its log-probabilities, without gradient, dropout off."""

        def pure(adapter: Arrays, inputs: Inputs, arrays: Arrays) -> tuple[Arrays, Arrays, mx.array]:
            self._put(adapter)
            loss, logps = self._loss(objective, inputs, arrays, grad=False)
            return loss.sums, loss.metrics, logps

        self.model.eval()
        made: tuple[Arrays, Arrays, mx.array] = self._call(
            ("scores", objective.method.name, objective.hp), pure, inputs, arrays
        )
        return made

    def gradient(
        self, objective: Objective, inputs: Inputs, arrays: Arrays, counts: Arrays, key: mx.array
    ) -> tuple[Arrays, Arrays, Arrays, mx.array]:
        """The adapter's gradient of sum_term sums[term] / counts[term]; the loss's sums and metrics, and the
        log-probabilities.

        Args:
            objective: the method and its numbers.
            inputs: what the model reads.
            arrays: the batch.
            counts: term name -> scalar denominator.
            key: seeds the dropout.
        """

        def pure(adapter: Arrays, inputs: Inputs, arrays: Arrays, counts: Arrays, key: mx.array) -> Any:
            set_keys(self.dropouts, key)

            def value(adapter: Arrays) -> tuple[mx.array, Loss, mx.array]:
                self._put(adapter)
                loss, logps = self._loss(objective, inputs, arrays, grad=True)
                return sum(loss.sums[term] / counts[term] for term in loss.sums), loss, logps

            (_, loss, logps), gradient = mx.value_and_grad(value)(adapter)
            return gradient, loss.sums, loss.metrics, logps

        self.model.train()
        made: tuple[Arrays, Arrays, Arrays, mx.array] = self._call(
            ("gradient", objective.method.name, objective.hp), pure, inputs, arrays, counts, key
        )
        return made

    def _loss(
        self, objective: Objective, inputs: Inputs, arrays: Arrays, *, grad: bool
    ) -> tuple[Loss, mx.array]:
        batch = to_batch(arrays)
        logps = self.forward.logps(inputs, batch, grad=grad)
        return objective.method.loss(XP, logps, batch.ref_logps, batch, objective.hp), logps

    def _put(self, adapter: Arrays) -> None:
        self.model.update(tree_unflatten(list(adapter.items())))

    def _call(self, name: Any, pure: Callable[..., Any], *arguments: Any) -> Any:
        if name not in self._made:
            self._made[name] = self._trace(pure)
        adapter = dict(tree_flatten(self.model.trainable_parameters()))
        try:
            with self.scope():
                return self._made[name](adapter, *arguments)
        finally:
            self._put(adapter)  # a trace leaves its own placeholders in the model

    def _trace(self, pure: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.traces += 1
            return pure(*arguments)

        if not self.compiled:
            return pure
        traced: Callable[..., Any] = mx.compile(counted)
        return traced
