"""mlx-lm's adapter layers, as training wants them: in the model's precision, and with dropout that repeats.

mlx-lm's layers multiply the input with float32 factors: under a 16-bit model that makes, and keeps for the
backward pass, a float32 copy of every adapted layer's input, of experts once for each that a token goes
through. Casting the small factors instead gives the same precision as the layer they stand beside. The
masters that the optimiser updates stay float32.

Its dropout draws from a global generator. A layer that is computed twice (`checkpointing`) would draw twice
and get a wrong gradient, so here each dropout has a key of its own, and the same key draws the same.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear


class CastLoRALinear(LoRALinear):  # type: ignore[misc]
    """y = W x + scale * B A x, all in x's dtype."""

    def __call__(self, x: mx.array) -> mx.array:
        """(..., out) from (..., in)."""
        a, b = self.lora_a.astype(x.dtype), (self.scale * self.lora_b).astype(x.dtype)
        y: mx.array = self.linear(x)
        z: mx.array = (self.dropout(x) @ a) @ b
        return y + z


class CastLoRASwitchLinear(LoRASwitchLinear):  # type: ignore[misc]
    """y = W_e x + scale * B_e A_e x of each token's expert e, in x's dtype where that can be."""

    def __call__(self, x: mx.array, indices: mx.array, sorted_indices: bool = False) -> mx.array:
        """(..., 1, out) from (..., 1, in) and (...) experts; whether those are sorted."""
        dtype = experts_dtype(x.dtype, mx.default_device())
        a, b = (factor.astype(dtype).swapaxes(-1, -2) for factor in (self.lora_a, self.lora_b))
        y: mx.array = self.linear(x, indices, sorted_indices=sorted_indices)
        z = mx.gather_mm(self.dropout(x), a, rhs_indices=indices, sorted_indices=sorted_indices)
        z = mx.gather_mm(self.scale * z, b, rhs_indices=indices, sorted_indices=sorted_indices)
        return y + z.astype(x.dtype)


def experts_dtype(dtype: mx.Dtype, device: mx.Device) -> mx.Dtype:
    """In what type experts' factors are multiplied with inputs of this one: MLX's CPU knows float32 only."""
    return mx.float32 if device == mx.cpu else dtype


class CastDoRALinear(DoRALinear):  # type: ignore[misc]
    """y = m / |W + scale * B A| * (W x + scale * B A x), all but the norms of the rows in x's dtype."""

    def __call__(self, x: mx.array) -> mx.array:
        """(..., out) from (..., in)."""
        a, b = self.lora_a.astype(x.dtype), (self.scale * self.lora_b).astype(x.dtype)
        weight: mx.array = self._dequantized_weight()
        adapted = weight + (self.scale * self.lora_b.T) @ self.lora_a.T
        norms = mx.stop_gradient(mx.linalg.norm(adapted, axis=1))
        y: mx.array = x @ weight.T + (self.dropout(x) @ a) @ b
        y = (self.m / norms).astype(x.dtype) * y
        return y + self.linear.bias if "bias" in self.linear else y


class KeyedDropout(nn.Dropout):  # type: ignore[misc]
    """Dropout by its own key instead of the global generator."""

    def __call__(self, x: mx.array) -> mx.array:
        """X with a random part of it 0 and the rest larger, so that its mean stays."""
        if not self.training or self._p_1 == 1:
            return x
        kept: mx.array = mx.random.bernoulli(self._p_1, x.shape, key=self._key)
        dropped: mx.array = kept * x / self._p_1
        return dropped


CASTING = {
    LoRALinear: CastLoRALinear,
    LoRASwitchLinear: CastLoRASwitchLinear,
    DoRALinear: CastDoRALinear,
}


def prepare(model: nn.Module) -> list[KeyedDropout]:
    """Change a model's adapter layers in place.

    Returns:
        the layers that draw random numbers; none if the adapter has no dropout.
    """
    for module in model.modules():
        if casting := CASTING.get(type(module)):
            module.__class__ = casting
        if type(module) is nn.Dropout and module._p_1 < 1:
            module.__class__ = KeyedDropout
    return [module for module in model.modules() if isinstance(module, KeyedDropout)]


def makes_weights(model: nn.Module) -> bool:
    """Whether each call of an adapted layer makes arrays as large as its weights: DoRA's does."""
    return any(type(module) is CastDoRALinear for module in model.modules())


def set_keys(layers: list[KeyedDropout], key: mx.array) -> None:
    """Give every layer a key of its own, derived from one."""
    if layers:
        for layer, own in zip(layers, mx.random.split(key, num=len(layers)), strict=True):
            layer._key = own
