"""Where the matrix of one of mlx-lm's modules lies in a model's files, whoever wrote them.

mlx-lm stacks the experts of a layer in `switch_mlp.gate_proj`, `up_proj` and `down_proj`. The hub has them
one by one (`experts.7.gate_proj`; Mixtral and Phi-MoE `experts.7.w1`) or, since transformers 5, all gates and
ups in one tensor (`experts.gate_up_proj`). What a multimodal model calls its language model differs too.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

from mlx_align.export.tensors import Tensors

STACKED = re.compile(r"(?P<layer>.+)\.switch_mlp\.(?P<part>gate_proj|up_proj|down_proj)")
W_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
"""Mixtral's names, which stand under `block_sparse_moe`."""

MULTIMODAL = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head", "lm_head"),
    ("language_model.model.", "model."),
)
"""mlx-lm's beginning of a name -> the hub's."""


@dataclass(frozen=True)
class Place:
    """A tensor that holds a module's matrix or a part of it.

    Args:
        tensor: its name in the files.
        expert: if the tensor is one expert's matrix: which; None if it is the whole matrix.
        rows: which rows of it (of each expert's) are the module's; None for all.
    """

    tensor: str
    expert: int | None = None
    rows: slice | None = None


def find(module: str, tensors: Tensors) -> list[Place]:
    """All places of a module's matrix; none if the model has no such module."""
    names = [
        module,
        *(hub + module.removeprefix(ours) for ours, hub in MULTIMODAL if module.startswith(ours)),
    ]
    for name in names:
        if f"{name}.weight" in tensors:
            return [Place(f"{name}.weight")]
        stacked = STACKED.fullmatch(name)
        places = _experts(stacked["layer"], stacked["part"], tensors) if stacked else []
        if places:
            return places
    return []


def _experts(layer: str, part: str, tensors: Tensors) -> list[Place]:
    single = [Place(expert_name(layer, part, 0), 0)]
    if single[0].tensor in tensors:
        while (name := expert_name(layer, part, len(single))) in tensors:
            single.append(Place(name, len(single)))
        return single
    fused = f"{layer}.experts.{'down_proj' if part == 'down_proj' else 'gate_up_proj'}"
    if fused not in tensors:
        return []
    half = tensors[fused].shape[-2] // 2
    rows = {"gate_proj": slice(half), "up_proj": slice(half, None), "down_proj": None}
    return [Place(fused, rows=rows[part])]


def expert_name(layer: str, part: str, expert: int) -> str:
    """The hub's name of one expert's matrix.

    Args:
        layer: the module above, "model.layers.0.mlp" or "model.layers.0.block_sparse_moe".
        part: "gate_proj", "up_proj" or "down_proj".
        expert: which.
    """
    name = W_NAMES[part] if layer.endswith("block_sparse_moe") else part
    return f"{layer}.experts.{expert}.{name}.weight"


def stacked_name(tensor: str) -> tuple[str, int] | None:
    """mlx-lm's module for the hub's tensor of one expert, and which expert it is; None for other tensors."""
    match = re.fullmatch(r"(.+)\.experts\.(\d+)\.(\w+)\.weight", tensor)
    parts = {hub: part for part, hub in W_NAMES.items()} | {part: part for part in W_NAMES}
    if match is None or match[3] not in parts:
        return None
    return f"{match[1]}.switch_mlp.{parts[match[3]]}", int(match[2])


def is_tied_head(module: str, tensors: Container[str]) -> bool:
    """Whether a module is an embedding whose model has an output head in its files all the same."""
    return module.endswith("embed_tokens") and "lm_head.weight" in tensors
