"""The functions that a policy calls for every batch: pure, so that MLX can compile them.

A function is traced once for every new set of shapes and then replayed: on a GPU that saves most of the
Python time of a step and fuses its small kernels. What changes from call to call (the adapter, the batch,
the denominators) comes in as arguments; the frozen base is part of the trace.

A float16 has no number below 6e-8 and loses digits below 6e-5, and a loss that is a mean over thousands of
tokens has derivatives of that size. So under a float16 model the way back begins with derivatives of which
the largest is 1, or less where there are so many that a sum of them might be more than a float16 holds, and
what comes out is divided by the same factor, in float32 (loss scaling: Micikevicius et al. 2018,
arXiv:1710.03740, section 3.2). The factor is that of the batch at hand: nothing is remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlx_align.backends.base import SLOPES_LEAST, SLOPES_MOST, Objective
from mlx_align.backends.mlx.arrays import Arrays
from mlx_align.backends.mlx.forward import Forward, Inputs
from mlx_align.backends.mlx.lora import KeyedDropout, set_keys
from mlx_align.backends.mlx.ops import MlxOps
from mlx_align.backends.mlx.prefix import Held
from mlx_align.backends.mlx.substitutes import Scope
from mlx_align.batch import Batch
from mlx_align.methods.base import Loss

XP = MlxOps()
ONLY_LOSSES = ("ref_logps", "old_logps", "advantages")
"""What of a batch no forward pass reads."""


class Made(NamedTuple):
    """What a gradient came with.

    Attributes:
        gradient: by the adapter.
        by_held: by the prompts' keys and values, where those were given; float32 under a float16 model.
        sums, metrics: the loss.
        logps: (N, T) log-probabilities of the branches.
    """

    gradient: Arrays
    by_held: Held
    sums: Arrays
    metrics: Arrays
    logps: mx.array


def _named(name: str, objective: Objective) -> tuple[Any, ...]:
    """A traced function's name: what it was traced with."""
    return name, objective.method.name, objective.hp, objective.temperature


def _loss(objective: Objective, grid: mx.array, batch: Batch) -> Loss:
    logps, batch = batch.with_logps(grid)
    return objective.method.loss(XP, logps, batch.ref_logps, batch, objective.hp)


def _unscaled(derivatives: Any, scale: mx.array | None) -> Any:
    """In float32, because a float16 might not hold them."""
    if scale is None:
        return derivatives
    return tree_map(lambda x: x.astype(mx.float32) / scale, derivatives)


def _most_of_a_channel(by_held: Held) -> mx.array:
    """The largest sum over batch and positions, without signs, in (B, H, P, D) derivatives."""
    return mx.stack([mx.abs(x).sum(axis=(0, 2)).max() for layer in by_held for x in layer]).max()


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
        self._float16 = any(x.dtype == mx.float16 for _, x in tree_flatten(self.model.parameters()))

    def logps(self, inputs: Inputs, arrays: Arrays, temperature: float) -> mx.array:
        """(N, T) log-probabilities of the branches, without gradient."""
        logps: mx.array = to_batch(arrays).with_logps(self._grid(inputs, arrays, temperature))[0]
        return logps

    def _grid(self, inputs: Inputs, arrays: Arrays, temperature: float) -> mx.array:
        # What only a loss needs is left out, so that there is one trace for a shape, with it or without.
        arrays = {name: array for name, array in arrays.items() if name not in ONLY_LOSSES}

        def pure(adapter: Arrays, inputs: Inputs, arrays: Arrays) -> mx.array:
            self._put(adapter)
            return self.forward.logps(inputs, to_batch(arrays), temperature, grad=False)

        self.model.eval()
        result: mx.array = self._call(("logps", temperature), pure, inputs, arrays)
        return result

    def scores(self, objective: Objective, inputs: Inputs, arrays: Arrays) -> tuple[Arrays, Arrays, mx.array]:
        """The loss of a batch (sums and metrics) and its log-probabilities, without gradient, dropout off.

        The loss itself is a few small operations; so there is no trace but that of the log-probabilities.
        """
        batch, grid = to_batch(arrays), self._grid(inputs, arrays, objective.temperature)
        loss = _loss(objective, grid, batch)
        return loss.sums, loss.metrics, batch.with_logps(grid)[0]

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
            batch = to_batch(arrays)

            def mean(grid: mx.array) -> tuple[mx.array, Loss]:
                loss = _loss(objective, grid, batch)
                return sum(loss.sums[term] / counts[term] for term in loss.sums), loss

            def value(given: tuple[Arrays, Held]) -> tuple[mx.array, Loss, mx.array, mx.array | None]:
                adapter, held = given
                self._put(adapter)
                grid = self.forward.logps(inputs, batch, objective.temperature, grad=True, held=held)
                (_, loss), by_grid = mx.value_and_grad(mean)(mx.stop_gradient(grid))
                slopes, scale = self._scaled(by_grid, mx.abs(by_grid).sum() / SLOPES_MOST)
                # The value means nothing and is never evaluated; its derivative is the loss's, scaled.
                return (grid * slopes).sum(), loss, grid, scale

            (_, loss, grid, scale), scaled = mx.value_and_grad(value)((adapter, held))
            gradient, by_held = _unscaled(scaled, scale)
            self.forward.stages.backward(gradient)
            # Not taken apart before: what is reshaped in there, MLX 0.32 cannot compile.
            return gradient, by_held, loss.sums, loss.metrics, batch.with_logps(grid)[0]

        self.model.train()
        return Made(*self._call(_named("gradient", objective), pure, inputs, arrays, counts, key, held))

    # A group in pieces: its prompt apart from its branches

    def prefixes(self, prefixes: mx.array, key: mx.array) -> Held:
        """Every layer's keys and values of (B, P) prefixes; dropout on."""

        def pure(adapter: Arrays, prefixes: mx.array, key: mx.array) -> Held:
            set_keys(self.dropouts, key)
            self._put(adapter)
            return self.forward.held(prefixes)

        self.model.train()
        held: Held = self._call("prefixes", pure, prefixes, key)
        return held

    def through_prefixes(self, prefixes: mx.array, key: mx.array, by_held: Held) -> Arrays:
        """The adapter's gradient through the keys and values of `prefixes`, from the derivatives by them.

        It is a sum over all tokens of the prompts. So under a float16 model the derivatives by each channel
        of a layer's keys or values are scaled to a sum of at most SLOPES_MOST, as those by log-probabilities.
        """

        def pure(adapter: Arrays, prefixes: mx.array, key: mx.array, by_held: Held) -> Arrays:
            set_keys(self.dropouts, key)
            slopes, scale = self._scaled(by_held, _most_of_a_channel(by_held) / SLOPES_MOST)

            def value(adapter: Arrays) -> mx.array:
                self._put(adapter)
                held = self.forward.held(prefixes)
                layers = zip(held, slopes, strict=True)
                return mx.stack(
                    [(x * by).sum() for layer in layers for x, by in zip(*layer, strict=True)]
                ).sum()

            gradient: Arrays = _unscaled(mx.grad(value)(adapter), scale)
            self.forward.stages.backward(gradient)
            return gradient

        self.model.train()
        gradient: Arrays = self._call("through prefixes", pure, prefixes, key, by_held)
        return gradient

    def _scaled(self, slopes: Any, least: mx.array) -> tuple[Any, mx.array | None]:
        """The derivatives that a way back begins with, and what they were multiplied by; None: by nothing.

        Under a float16 model they are divided by the largest of them, or by `least` if that is more.
        """
        if not self._float16:
            return slopes, None
        largest = mx.stack([mx.abs(x).max() for _, x in tree_flatten(slopes)]).max()
        scale = 1 / mx.maximum(mx.maximum(largest, least), SLOPES_LEAST)
        return tree_map(lambda x: x * scale, slopes), scale

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
