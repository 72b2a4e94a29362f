"""PEFT's files, and how it lays out the adapters of stacked experts.

adapter_model.safetensors   `base_model.model.<module>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r);
                            an embedding's `.lora_embedding_A` (r, tokens), `.lora_embedding_B` (width, r);
                            DoRA's `.lora_magnitude_vector` (out,)
adapter_config.json         r, lora_alpha = scale * r, target_modules and so on

transformers keeps a block's experts as two parameters, `experts.down_proj` and `experts.gate_up_proj`; in the
second the rows of gate and up lie below each other. PEFT adapts each by two flat matrices: A is (E * r, in),
expert after expert; B is (out, r * E), in which the expert changes fastest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mlx_align.export.adapter import Module

WEIGHTS, CONFIG, PICKLED = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
PREFIX = "base_model.model."

MIXTURES = ("olmoe", "qwen2_moe", "qwen3_moe")
"""Architectures whose experts are `<block>.experts` in transformers and `<block>.switch_mlp` in mlx-lm."""

RENAMED = ("gate", "gate_proj", "up_proj", "down_proj")
"""In a mixture PEFT takes modules of these names for the experts' or the router's, wherever they are. Such a
module is therefore adapted as a parameter: `<module>.weight`."""


def flat_a(a: NDArray[np.float32]) -> NDArray[np.float32]:
    """(E * r, in) from (E, r, in)."""
    return a.reshape(-1, a.shape[-1])


def flat_b(b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(out, r * E) from (E, out, r)."""
    return b.transpose(1, 2, 0).reshape(b.shape[1], -1)


def stacked(a: NDArray[np.float32], b: NDArray[np.float32], experts: int) -> Module:
    """The experts' adapter from PEFT's flat matrices.

    Raises:
        ValueError: their sizes are no multiples of the number of experts.
    """
    b = b.reshape(len(b), -1, experts).transpose(2, 0, 1)
    return Module(a.reshape(experts, -1, a.shape[-1]), np.ascontiguousarray(b))


def fused(modules: Mapping[str, Module]) -> Module:
    """The adapters of gate and up as that of one matrix: of twice the rank, its B block diagonal.

    Args:
        modules: gate_proj and up_proj, or one of them: the other then stays as it is.
    """
    names = ("gate_proj", "up_proj")
    some = next(modules[name] for name in names if name in modules)
    nothing = Module(np.zeros_like(some.a), np.zeros_like(some.b))
    gate, up = (modules.get(name, nothing) for name in names)
    b = np.concatenate([np.pad(gate.b, _columns(0, up.rank)), np.pad(up.b, _columns(gate.rank, 0))], axis=1)
    return Module(np.concatenate([gate.a, up.a], axis=1), b)


def separated(both: Module) -> dict[str, Module]:
    """What an adapter of gate and up as one matrix does to each; without one that it leaves as it is.

    A block diagonal B gives back what `fused` was given; any other is cut in two, and both parts keep A.
    """
    rows, rank = both.b.shape[1] // 2, both.rank // 2
    gate, up = Module(both.a, both.b[:, :rows]), Module(both.a, both.b[:, rows:])
    if both.rank % 2 == 0 and not gate.b[..., rank:].any() and not up.b[..., :rank].any():
        gate = Module(both.a[:, :rank], gate.b[..., :rank])
        up = Module(both.a[:, rank:], up.b[..., rank:])
    return {name: part for name, part in (("gate_proj", gate), ("up_proj", up)) if part.a.any()}


def padded(module: Module, rank: int) -> Module:
    """The same change with a larger rank: A gets rows of zeros, B columns."""
    more = rank - module.rank
    a = np.pad(module.a, [(0, 0)] * (module.a.ndim - 2) + [(0, more), (0, 0)])
    b = np.pad(module.b, [(0, 0)] * (module.b.ndim - 1) + [(0, more)])
    return Module(a, b, module.magnitude, module.embedding)


def _columns(before: int, after: int) -> list[tuple[int, int]]:
    """What `np.pad` adds to the last of three axes."""
    return [(0, 0), (0, 0), (before, after)]
