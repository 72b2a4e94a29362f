"""The CPU's own attention and SwiGLU: values and derivatives of mlx-lm's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import activations, base

from mlx_align.backends.mlx import cpu

N, HEADS, GROUPS, T, S, D = 2, 4, 2, 5, 9, 8


def normal(*shape: int, seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def both(function: Callable[..., mx.array], *inputs: mx.array) -> list[np.ndarray]:
    """The value, and the derivatives of a weighted sum of it by every input."""

    def weighted(*inputs: mx.array) -> tuple[mx.array, mx.array]:
        value = function(*inputs)
        return (value * normal(*value.shape, seed=9)).sum(), value

    (_, value), gradients = mx.value_and_grad(weighted, argnums=tuple(range(len(inputs))))(*inputs)
    return [np.array(array) for array in (value, *gradients)]


def assert_same(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


def boolean(*shape: int) -> mx.array:
    mask = np.random.default_rng(3).random(shape) > 0.4
    mask[..., 0] = True
    return mx.array(mask)


MASKS: dict[str, Any] = {
    "none": None,
    "causal": "causal",
    "shared": boolean(T, S),
    "by sequence": boolean(N, 1, T, S),
    "by head": boolean(N, HEADS, T, S),
    "to be added": mx.where(boolean(N, 1, T, S), 0.0, -1e9),
}


@pytest.mark.parametrize("name", MASKS)
def test_attention(name: str) -> None:
    inputs = normal(N, HEADS, T, D, seed=0), normal(N, GROUPS, S, D, seed=1), normal(N, GROUPS, S, D, seed=2)

    def by(attention: Callable[..., mx.array]) -> list[np.ndarray]:
        return both(lambda q, k, v: attention(q, k, v, cache=None, scale=0.3, mask=MASKS[name]), *inputs)

    own = cpu.attention(base.scaled_dot_product_attention)
    assert_same(by(own), by(base.scaled_dot_product_attention))


def test_hidden_tokens_have_no_part() -> None:
    """Whatever stands in a hidden token changes no digit, and no derivative reaches it."""
    queries, mask = normal(N, HEADS, T, D, seed=0), MASKS["shared"]
    keys, values = normal(N, GROUPS, S, D, seed=1), normal(N, GROUPS, S, D, seed=2)
    mask = mx.concatenate([mask[:, :-1], mx.zeros((T, 1), mx.bool_)], axis=1)
    own = cpu.attention(base.scaled_dot_product_attention)

    def read(keys: mx.array, values: mx.array) -> list[np.ndarray]:
        return both(lambda k, v: own(queries, k, v, None, 0.3, mask=mask), keys, values)

    loud = mx.concatenate([mx.zeros((N, GROUPS, S - 1, D)), mx.full((N, GROUPS, 1, D), 20.0)], axis=2)
    value, by_keys, by_values = read(keys, values)
    np.testing.assert_array_equal(read(keys + loud, values + loud)[0], value)
    assert np.abs(by_keys[:, :, -1]).max() < 1e-25
    assert np.abs(by_values[:, :, -1]).max() < 1e-25


@pytest.mark.parametrize(
    ("dtype", "sinks"), [(mx.bfloat16, None), (mx.float32, mx.zeros(HEADS))], ids=["16 bits", "sinks"]
)
def test_other_attention_is_left_to_mlx_lm(dtype: Any, sinks: mx.array | None) -> None:
    asked: list[Any] = []

    def original(*arrays: mx.array, **others: Any) -> mx.array:
        asked.append(others["sinks"])
        return arrays[0]

    queries = mx.zeros((N, HEADS, T, D), dtype)
    cpu.attention(original)(queries, queries, queries, None, 1.0, mask=None, sinks=sinks)
    assert len(asked) == 1


def test_swiglu() -> None:
    gate, x = normal(7, 16, seed=0) * 5, normal(7, 16, seed=1)
    assert_same(both(cpu.swiglu(activations.swiglu), gate, x), both(activations.swiglu, gate, x))


@pytest.mark.parametrize("gate", [-300.0, -100.0, 0.0, 100.0, 300.0])
def test_swiglu_at_extremes(gate: float) -> None:
    value, by_gate, by_x = both(cpu.swiglu(activations.swiglu), mx.array([gate]), mx.array([2.0]))
    assert np.isfinite([value, by_gate, by_x]).all()
    np.testing.assert_allclose(value, max(gate, 0.0) * 2.0, atol=1e-30)
