"""Adapter layers in the model's precision: mlx-lm's values, and no copies of what they read."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear

from mlx_align.backends.mlx import lora
from mlx_align.backends.mlx.lora import experts_dtype, prepare

WIDE, NARROW, EXPERTS = 256, 32, 4
CPU, GPU = mx.Device(mx.cpu), mx.Device(mx.gpu)


def adapted(kind: Any, base: nn.Module, dtype: mx.Dtype) -> Any:
    """One of mlx-lm's layers on a base in some precision, with factors in float32."""
    base.set_dtype(dtype)
    base.freeze()
    layer = kind.from_base(base, r=4, scale=2.0)
    layer.lora_b = mx.random.normal(layer.lora_b.shape) * 0.1
    if kind is DoRALinear:
        layer.m = layer.m * mx.random.uniform(0.5, 1.5, layer.m.shape)
    mx.eval(layer.parameters())
    return layer


def layers() -> dict[str, Any]:
    mx.random.seed(0)
    experts = SwitchLinear(WIDE, NARROW, EXPERTS, bias=True)
    return {
        "lora": (LoRALinear, nn.Linear(WIDE, NARROW)),
        "dora": (DoRALinear, nn.Linear(WIDE, NARROW)),
        "dora without bias": (DoRALinear, nn.Linear(WIDE, NARROW, bias=False)),
        "dora on 4 bits": (DoRALinear, nn.QuantizedLinear.from_linear(nn.Linear(WIDE, NARROW), 64, 4)),
        "experts": (LoRASwitchLinear, experts),
        "experts in 4 bits": (LoRASwitchLinear, experts.to_quantized(64, 4)),
    }


def inputs(name: str, dtype: mx.Dtype, tokens: int = 100) -> tuple[Any, ...]:
    if "experts" not in name:
        return (mx.random.normal((tokens, WIDE)).astype(dtype),)
    x = mx.random.normal((tokens, 1, WIDE)).astype(dtype)
    return x, mx.sort(mx.random.randint(0, EXPERTS, (tokens,))), True


def read(layer: Any, given: tuple[Any, ...]) -> tuple[mx.array, dict[str, mx.array]]:
    """What a layer makes of its inputs, and the derivative of a weighted sum of it."""
    weights = mx.cos(mx.arange(NARROW))

    def total(x: mx.array, *rest: Any) -> tuple[mx.array, mx.array]:
        y = layer(x, *rest)
        return (y.astype(mx.float32) * weights).sum(), y

    (_, y), gradient = nn.value_and_grad(layer, total)(*given)
    mx.eval(y, gradient)
    return y, dict(tree_flatten(gradient))


def assert_near(got: Any, want: Any, share: float) -> None:
    (y, gradient), (wanted, by) = got, want
    assert y.dtype == wanted.dtype
    assert gradient.keys() == by.keys()
    for one, other in [(y, wanted), *((gradient[name], by[name]) for name in by)]:
        one, other = one.astype(mx.float32), other.astype(mx.float32)
        assert mx.abs(one - other).max().item() <= share * mx.abs(other).max().item()
    assert {value.dtype for value in gradient.values()} == {mx.float32}


@pytest.mark.parametrize("name", layers())
def test_in_float32_they_are_mlx_lms(name: str) -> None:
    layer, given = adapted(*layers()[name], mx.float32), inputs(name, mx.float32)
    want = read(layer, given)
    prepare(layer)
    assert type(layer).__name__.startswith("Cast")
    assert_near(read(layer, given), want, 1e-5)


@pytest.mark.parametrize("name", [name for name in layers() if name != "experts"])
def test_in_16_bits_they_are_mlx_lms_but_for_rounding(name: str) -> None:
    """But for experts in 16 bits, which MLX's CPU cannot read at all."""
    layer, given = adapted(*layers()[name], mx.bfloat16), inputs(name, mx.bfloat16)
    want = read(layer, given)
    prepare(layer)
    assert_near(read(layer, given), want, 0.03)


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_no_float32_copy_of_an_input_is_made(name: str) -> None:
    layer, given = adapted(*layers()[name], mx.bfloat16), inputs(name, mx.bfloat16, tokens=4096)

    def peak() -> int:
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        read(layer, given)
        return mx.get_peak_memory() - before

    mx.eval(given)
    theirs = peak()
    prepare(layer)
    assert peak() < theirs - 0.9 * 4 * given[0].size


def test_experts_are_float32_on_a_cpu_only() -> None:
    for dtype in (mx.bfloat16, mx.float16, mx.float32):
        assert experts_dtype(dtype, GPU) == dtype
        assert experts_dtype(dtype, CPU) == mx.float32


def test_a_gpu_multiplies_experts_in_the_models_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    name, multiply, seen = "experts in 4 bits", mx.gather_mm, set()
    layer, given = adapted(*layers()[name], mx.bfloat16), inputs(name, mx.bfloat16)
    want = read(layer, given)

    def on_gpu(x: mx.array, factor: mx.array, **indices: Any) -> mx.array:
        """The kernel that the CPU lacks: 16-bit numbers, added up in float32."""
        seen.update((x.dtype, factor.dtype))
        return multiply(x.astype(mx.float32), factor.astype(mx.float32), **indices).astype(x.dtype)

    monkeypatch.setattr(mx, "gather_mm", on_gpu)
    monkeypatch.setattr(lora, "experts_dtype", lambda dtype, device: experts_dtype(dtype, GPU))
    prepare(layer)
    assert_near(read(layer, given), want, 0.03)
    assert seen == {mx.bfloat16}
