"""Attention and SwiGLU for MLX's CPU device, in the operations that are quick there.

MLX's CPU device computes exp, and whatever contains it (softmax, sigmoid), at some 60 million numbers a
second, `where` at 200 million, and sums and products at thousands of millions. So here e**x is a power of 2,
a mask is added instead of chosen by, and the derivatives are written out, which takes fewer visits of the
(T, S) scores than differentiating softmax does. The values are those of mlx-lm's functions, but for the order
of rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from mlx_align.backends.mlx.stages import Stages
from mlx_align.backends.mlx.substitutes import ATTENTION, SWIGLU, Function, Substitutes

LOG2_E = 1.4426950408889634
HIDDEN, LEAST = -1e30, -100.0
"""Added to the score of a token that must not be seen; and the exponent below which a weight, beside the 1 of
the largest, is nothing. Powers that underflow would take three times as long."""


def exp(x: mx.array) -> mx.array:
    """e**x of x <= 0, on any device."""
    return mx.power(2.0, x * LOG2_E) if mx.default_device() == mx.cpu else mx.exp(x)


def substitutes(stages: Stages) -> Substitutes:
    """What stands in mlx-lm's files while a graph is built; each of them ends a stage."""
    made = {ATTENTION: attention, SWIGLU: swiglu}
    return {name: partial(_ending_a_stage, function, stages) for name, function in made.items()}


def _ending_a_stage(function: Callable[[Function], Function], stages: Stages, original: Function) -> Function:
    called = function(original)

    def call(*args: Any, **kwargs: Any) -> mx.array:
        result = called(*args, **kwargs)
        stages.after(result)
        return result

    return call


def attention(original: Function) -> Function:
    """mlx-lm's `scaled_dot_product_attention`; 16 bits, sinks and quantised caches are left to its own."""
    masks = _Masks()

    def call(
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any,
        scale: float,
        mask: mx.array | str | None,
        sinks: mx.array | None = None,
    ) -> mx.array:
        if sinks is not None or hasattr(cache, "bits") or queries.dtype != mx.float32:
            return original(queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks)
        n, heads, length, width = queries.shape
        groups = keys.shape[1]
        grouped = queries.reshape(n, groups, heads // groups * length, width)
        hidden = masks.additive(mask, heads // groups, length, keys.shape[2])
        result = _weighted_values(grouped, keys, values, hidden, scale)
        return result.reshape(n, heads, length, values.shape[-1])

    return call


def _weighted_values(
    queries: mx.array, keys: mx.array, values: mx.array, hidden: mx.array | None, scale: float
) -> mx.array:
    """softmax(scale Q K^T + hidden) V of (N, H, R * T, D) queries, R query heads for each of H keys' heads.

    With w the weights before they are normalised, z their sum and do the derivative by the result:
    dV = w^T (do / z) and dS = u - w sum(u) / z, where u = w * (do / z V^T). The sum is taken over the very
    numbers it is to cancel, so that little is left of their rounding.
    """

    def forward(queries: mx.array, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        scores = (queries * (scale * LOG2_E)) @ keys.swapaxes(-1, -2)
        if hidden is not None:
            split = scores.reshape(*scores.shape[:2], -1, *hidden.shape[-2:])
            scores = (split + hidden).reshape(scores.shape)
        scores = scores - scores.max(axis=-1, keepdims=True)
        weights = mx.power(2.0, mx.maximum(scores, LEAST))
        total = weights.sum(axis=-1, keepdims=True)
        return (weights @ values) / total, weights, total

    function: Any = mx.custom_function(forward)

    @function.vjp  # type: ignore[untyped-decorator]
    def _(primals: list[mx.array], cotangents: list[mx.array], outputs: list[mx.array]) -> Any:
        queries, keys, values = primals
        _, weights, total = outputs
        by_result = cotangents[0] / total
        weighted = weights * (by_result @ values.swapaxes(-1, -2))
        by_scores = weighted - weights * (weighted.sum(axis=-1, keepdims=True) / total)
        return (
            (by_scores @ keys) * scale,
            by_scores.swapaxes(-1, -2) @ (queries * scale),
            weights.swapaxes(-1, -2) @ by_result,
        )

    result: mx.array = function(queries, keys, values)[0]
    return result


class _Masks:
    """Masks as numbers to add. A model gives the same mask to all of its layers, so they are kept."""

    def __init__(self) -> None:
        self._made: dict[Any, tuple[Any, mx.array]] = {}

    def additive(self, mask: mx.array | str | None, share: int, length: int, seen: int) -> mx.array | None:
        """Broadcast to (N, H, R, T, S); None if everything is seen."""
        if mask is None:
            return None
        key = (mask, length, seen) if isinstance(mask, str) else id(mask)
        if key not in self._made:
            array = self._causal(length, seen) if isinstance(mask, str) else mask
            if array.dtype == mx.bool_:
                array = mx.where(array, 0.0, HIDDEN)
            self._made[key] = mask, _grouped(array, share)  # the mask is kept, so its id stays its own
        return self._made[key][1]

    @staticmethod
    def _causal(length: int, seen: int) -> mx.array:
        return mx.arange(seen - length, seen)[:, None] >= mx.arange(seen)


def _grouped(mask: mx.array, share: int) -> mx.array:
    """(..., T, S) or (N, 1 or R * H, T, S) as (N, H, R, T, S)."""
    if mask.ndim < 4 or mask.shape[1] == 1:
        return mask if mask.ndim < 3 else mask.reshape(-1, 1, 1, *mask.shape[-2:])
    n, heads, *rest = mask.shape
    return mask.reshape(n, heads // share, share, *rest)


def swiglu(original: Function) -> Function:
    """mlx-lm's `swiglu`: silu(gate) * x, with sigmoid's value kept for the derivative."""

    def call(gate: mx.array, x: mx.array) -> mx.array:
        if gate.dtype != mx.float32:
            return original(gate, x)
        result: mx.array = _swiglu(gate, x)[0]
        return result

    return call


def _swiglu_and_sigmoid(gate: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
    sigmoid = 1.0 / (1.0 + mx.power(2.0, gate * -LOG2_E))
    return gate * sigmoid * x, sigmoid


_swiglu: Any = mx.custom_function(_swiglu_and_sigmoid)


@_swiglu.vjp  # type: ignore[untyped-decorator]
def _(primals: list[mx.array], cotangents: list[mx.array], outputs: list[mx.array]) -> Any:
    gate, x = primals
    sigmoid = outputs[1]
    silu = gate * sigmoid
    by_silu = cotangents[0] * x
    return by_silu * (sigmoid + silu * (1.0 - sigmoid)), cotangents[0] * silu
