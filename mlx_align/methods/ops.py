"""The handful of array operations a loss may use.

Losses are written once against this protocol. Each backend implements it (`backends/mlx/ops.py`,
`backends/torch/ops.py`), and the tests implement it a third time in float64 numpy, as the oracle.
Arithmetic operators, comparison and slicing come from the arrays themselves.
"""

from __future__ import annotations

from typing import Protocol

from mlx_align.batch import Array


class Ops(Protocol):
    """Element-wise operations and a sum; every argument and result is an array of the backend."""

    def exp(self, x: Array) -> Array:
        """e**x."""

    def log(self, x: Array) -> Array:
        """Natural logarithm."""

    def log1p(self, x: Array) -> Array:
        """log(1 + x), exact for small x."""

    def expm1(self, x: Array) -> Array:
        """exp(x) - 1, exact for small x."""

    def log_sigmoid(self, x: Array) -> Array:
        """log(1 / (1 + exp(-x))) without overflow for x of any size."""

    def relu(self, x: Array) -> Array:
        """max(x, 0)."""

    def minimum(self, x: Array, bound: float) -> Array:
        """min(x, bound); the gradient is zero where the bound holds."""

    def clip(self, x: Array, low: float, high: float) -> Array:
        """X held between low and high; the gradient is zero where a bound holds."""

    def where(self, condition: Array, x: Array, y: Array) -> Array:
        """X where condition, else y."""

    def sum(self, x: Array, axis: int | None = None) -> Array:
        """Sum over one axis, or over all."""

    def stop_gradient(self, x: Array) -> Array:
        """X as a constant."""
