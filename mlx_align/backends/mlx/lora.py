"""mlx-lm's adapter layers, as training wants them: in the model's precision, and with dropout that repeats.

mlx-lm's LoRALinear multiplies the input with float32 factors: under a 16-bit model that makes, and keeps for
the backward pass, a float32 copy of every adapted layer's input. Casting the small factors instead gives the
same precision as the layer they stand beside. The masters that the optimiser updates stay float32.

Its dropout draws from a global generator. A layer that is computed twice (`checkpointing`) would draw twice
and get a wrong gradient, so here each dropout has a key of its own, and the same key draws the same.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.lora import LoRALinear


class CastLoRALinear(LoRALinear):  # type: ignore[misc]
    """y = W x + scale * B A x, all in x's dtype."""

    def __call__(self, x: mx.array) -> mx.array:
        """(..., out) from (..., in)."""
        a, b = self.lora_a.astype(x.dtype), (self.scale * self.lora_b).astype(x.dtype)
        y: mx.array = self.linear(x)
        z: mx.array = (self.dropout(x) @ a) @ b
        return y + z


class KeyedDropout(nn.Dropout):  # type: ignore[misc]
    """Dropout by its own key instead of the global generator."""

    def __call__(self, x: mx.array) -> mx.array:
        """X with a random part of it 0 and the rest larger, so that its mean stays."""
        if not self.training or self._p_1 == 1:
            return x
        kept: mx.array = mx.random.bernoulli(self._p_1, x.shape, key=self._key)
        dropped: mx.array = kept * x / self._p_1
        return dropped


def prepare(model: nn.Module) -> list[KeyedDropout]:
    """Change a model's adapter layers in place.

    Returns:
        the layers that draw random numbers; none if the adapter has no dropout.
    """
    for module in model.modules():
        if type(module) is LoRALinear:
            module.__class__ = CastLoRALinear
        if type(module) is nn.Dropout and module._p_1 < 1:
            module.__class__ = KeyedDropout
    return [module for module in model.modules() if isinstance(module, KeyedDropout)]


def set_keys(layers: list[KeyedDropout], key: mx.array) -> None:
    """Give every layer a key of its own, derived from one."""
    if layers:
        for layer, own in zip(layers, mx.random.split(key, num=len(layers)), strict=True):
            layer._key = own
