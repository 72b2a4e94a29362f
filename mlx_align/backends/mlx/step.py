"""The functions that a policy calls for every batch: pure, so that MLX can compile them.

A function is traced once for every new set of shapes and then replayed: on a GPU that saves most of the
Python time of a step and fuses its small kernels. What changes from call to call (the adapter, the batch,
the denominators) comes in as arguments; the frozen base is part of the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_align.backends.base import Objective
from mlx_align.backends.mlx.arrays import Arrays
from mlx_align.backends.mlx.forward import Forward, Inputs, read_prefixes
from mlx_align.backends.mlx.lora import KeyedDropout, set_keys
from mlx_align.backends.mlx.ops import MlxOps
from mlx_align.backends.mlx.prefix import Held
from mlx_align.backends.mlx.substitutes import Scope
from mlx_align.batch import Batch
from mlx_align.methods.base import Loss

XP = MlxOps()


class Made(NamedTuple):
    """What a gradient came with.

    Attributes:
        gradient: by the adapter.
        by_held: by the prompts' keys and values, where those were given.
        sums, metrics: the loss.
        logps: (N, T) log-probabilities.
    """

    gradient: Arrays
    by_held: Held
    sums: Arrays
    metrics: Arrays
    logps: mx.array


def _named(name: str, objective: Objective) -> tuple[Any, ...]:
    """A traced function's name: what it was traced with."""
    return name, objective.method.name, objective.hp, objective.temperature


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

    def logps(self, inputs: Inputs, arrays: Arrays, temperature: float) -> mx.array:
        """(N, T) log-probabilities, without gradient."""

        def pure(adapter: Arrays, inputs: Inputs, arrays: Arrays) -> mx.array:
            self._put(adapter)
            return self.forward.logps(inputs, to_batch(arrays), grad=False, temperature=temperature)

        self.model.eval()
        result: mx.array = self._call(("logps", temperature), pure, inputs, arrays)
        return result

    def scores(self, objective: Objective, inputs: Inputs, arrays: Arrays) -> tuple[Arrays, Arrays, mx.array]:
        """The loss of a batch (sums and metrics) and its log-probabilities, without gradient, dropout off."""

        def pure(adapter: Arrays, inputs: Inputs, arrays: Arrays) -> tuple[Arrays, Arrays, mx.array]:
            self._put(adapter)
            loss, logps = self._loss(objective, inputs, arrays, grad=False)
            return loss.sums, loss.metrics, logps

        self.model.eval()
        made: tuple[Arrays, Arrays, mx.array] = self._call(_named("scores", objective), pure, inputs, arrays)
        return made

    def gradient(
        self, objective: Objective, inputs: Inputs, arrays: Arrays, counts: Arrays, key: mx.array, held: Held
    ) -> Made:
        """The derivatives of sum_term sums[term] / counts[term], with what the loss came to.

        Args:
            objective: the method and its numbers.
            inputs: what the model reads.
            arrays: the batch.
            counts: term name -> scalar denominator.
            key: seeds the dropout.
            held: the prompts' keys and values from `prefixes`; empty: prompts are read here.
        """

        def pure(
            adapter: Arrays, inputs: Inputs, arrays: Arrays, counts: Arrays, key: mx.array, held: Held
        ) -> Any:
            set_keys(self.dropouts, key)

            def value(given: tuple[Arrays, Held]) -> tuple[mx.array, Loss, mx.array]:
                adapter, held = given
                self._put(adapter)
                loss, logps = self._loss(objective, inputs, arrays, grad=True, held=held or None)
                return sum(loss.sums[term] / counts[term] for term in loss.sums), loss, logps

            (_, loss, logps), (gradient, by_held) = mx.value_and_grad(value)((adapter, held))
            return gradient, by_held, loss.sums, loss.metrics, logps

        self.model.train()
        return Made(*self._call(_named("gradient", objective), pure, inputs, arrays, counts, key, held))

    # A group in pieces: its prompt apart from its branches

    def prefixes(self, prefixes: mx.array, key: mx.array) -> Held:
        """Every layer's keys and values of (B, P) prefixes; dropout on."""

        def pure(adapter: Arrays, prefixes: mx.array, key: mx.array) -> Held:
            set_keys(self.dropouts, key)
            self._put(adapter)
            return read_prefixes(self.forward.model, prefixes)

        self.model.train()
        held: Held = self._call("prefixes", pure, prefixes, key)
        return held

    def through_prefixes(self, prefixes: mx.array, key: mx.array, by_held: Held) -> Arrays:
        """The adapter's gradient through the keys and values of `prefixes`, from the derivatives by them."""

        def pure(adapter: Arrays, prefixes: mx.array, key: mx.array, by_held: Held) -> Arrays:
            set_keys(self.dropouts, key)

            def value(adapter: Arrays) -> mx.array:
                self._put(adapter)
                held = read_prefixes(self.forward.model, prefixes)
                layers = zip(held, by_held, strict=True)
                return mx.stack(
                    [(x * by).sum() for layer in layers for x, by in zip(*layer, strict=True)]
                ).sum()

            gradient: Arrays = mx.grad(value)(adapter)
            return gradient

        self.model.train()
        gradient: Arrays = self._call("through prefixes", pure, prefixes, key, by_held)
        return gradient

    def _loss(
        self, objective: Objective, inputs: Inputs, arrays: Arrays, *, grad: bool, held: Held | None = None
    ) -> tuple[Loss, mx.array]:
        batch = to_batch(arrays)
        temperature = objective.temperature
        logps = self.forward.logps(inputs, batch, grad=grad, temperature=temperature, held=held)
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
