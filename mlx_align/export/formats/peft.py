"""An adapter in PEFT's format, which transformers, vLLM and most of the Python world read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import UsageError
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.peft_layout import CONFIG, MIXTURES, PREFIX, RENAMED, WEIGHTS, flat_a, flat_b, fused
from mlx_align.export.provenance import Provenance
from mlx_align.export.tensors import Writer, encode

MERGE = "Merge it into the model instead: --to hf, or --to gguf."


@dataclass(frozen=True)
class Part:
    """What PEFT has for one adapted matrix.

    Attributes:
        holder: the module that the arrays are saved under.
        target: what adapter_config.json calls the matrix: a module, or a parameter.
        parameter: whether it is a parameter.
        rank: its r.
        arrays: by the end of their names, in PEFT's layout.
    """

    holder: str
    target: str
    parameter: bool
    rank: int
    arrays: dict[str, NDArray[np.float32]]


def write(folder: Path, adapter: Adapter, base: Base, provenance: Provenance) -> tuple[str, ...]:
    """Write adapter_model.safetensors and adapter_config.json into an existing folder.

    Returns:
        what a person should know about it.

    Raises:
        UsageError: PEFT cannot express this adapter.
    """
    parts = _parts(adapter, base)
    arrays = _arrays(parts, base)
    metadata = {"format": "pt", **provenance.metadata()}
    entries = [(name, "F32", array.shape) for name, array in arrays.items()]
    with Writer(folder / WEIGHTS, entries, metadata) as writer:
        for name, array in arrays.items():
            writer.write(name, encode(array, "F32"))
    config = _config(adapter, base, parts, provenance)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return _notes(adapter, base, parts)


def _arrays(parts: list[Part], base: Base) -> dict[str, NDArray[np.float32]]:
    """Everything that will be saved, by name. A tied embedding's is saved for the output once more."""
    arrays = {f"{PREFIX}{part.holder}.{end}": array for part in parts for end, array in part.arrays.items()}
    for part in parts:
        if base.tied and "lora_embedding_A" in part.arrays:
            arrays[f"{PREFIX}lm_head.lora_A.weight"] = part.arrays["lora_embedding_B"].T
            arrays[f"{PREFIX}lm_head.lora_B.weight"] = part.arrays["lora_embedding_A"].T
    return arrays


def _notes(adapter: Adapter, base: Base, parts: list[Part]) -> tuple[str, ...]:
    notes = []
    if any(base.quantisation(name) for name in adapter.modules):
        notes.append(
            "The base was quantised by MLX, which transformers cannot read: load the adapter on the model "
            "that it was made from, which it fits nearly as well."
        )
    if adapter.dropout and any(part.parameter for part in parts):
        notes.append("PEFT knows no dropout for experts and routers: lora_dropout is 0 for further training.")
    return tuple(notes)


def _parts(adapter: Adapter, base: Base) -> list[Part]:
    """Everything that will be written.

    Raises:
        UsageError: PEFT cannot express it.
    """
    parts: list[Part] = []
    stacks: dict[str, dict[str, Module]] = {}
    for name, module in adapter.modules.items():
        block, stack, leaf = name.rpartition(".switch_mlp.")
        if stack and base.architecture in MIXTURES:
            stacks.setdefault(block, {})[leaf] = module
        else:
            parts.append(_part(name, module, base))
    for block, modules in stacks.items():
        parts += _stack(f"{block}.experts", modules)
    for part in parts:
        _check(part)
    return parts


def _part(name: str, module: Module, base: Base) -> Part:
    """A linear layer or an embedding."""
    if module.a.ndim != 2:
        raise UsageError(
            f"how PEFT names the experts of {base.architecture} is not known here", where=name, hint=MERGE
        )
    if base.tied and name == "lm_head":
        raise UsageError("this base has no lm_head of its own: it is the embedding", where=name, hint=MERGE)
    if module.embedding:
        arrays = {"lora_embedding_A": module.a, "lora_embedding_B": module.b}
    else:
        arrays = {"lora_A.weight": module.a, "lora_B.weight": module.b}
    if module.magnitude is not None:
        arrays["lora_magnitude_vector"] = module.magnitude
    parameter = base.architecture in MIXTURES and name.rpartition(".")[2] in RENAMED
    return Part(name, f"{name}.weight" if parameter else name, parameter, module.rank, arrays)


def _stack(experts: str, modules: dict[str, Module]) -> list[Part]:
    """The experts of one block: PEFT wraps them once a parameter, and the last wrapper is `experts`."""
    parts = []
    down = modules.get("down_proj")
    if modules.keys() != {"down_proj"}:
        both = fused(modules)
        holder = experts if down is None else f"{experts}.base_layer"
        parts.append(_expert_part(holder, f"{experts}.gate_up_proj", both))
    if down is not None:
        parts.append(_expert_part(experts, f"{experts}.down_proj", down))
    return parts


def _expert_part(holder: str, target: str, module: Module) -> Part:
    arrays = {"lora_A.weight": flat_a(module.a), "lora_B.weight": flat_b(module.b)}
    return Part(holder, target, True, module.rank, arrays)


def _check(part: Part) -> None:
    """Refuse what PEFT would read in another way, or not at all."""
    if not part.holder.startswith("model.") and part.holder != "lm_head":
        raise UsageError("transformers has no module of this name", where=part.holder, hint=MERGE)
    if "lora_magnitude_vector" not in part.arrays:
        return
    if part.parameter:
        raise UsageError(
            "PEFT has no DoRA for a mixture's feed-forward layers", where=part.holder, hint=MERGE
        )
    if "lora_embedding_A" in part.arrays:
        raise UsageError(
            "PEFT's DoRA scales an embedding's columns, mlx-lm's its rows", where=part.holder, hint=MERGE
        )


def _config(adapter: Adapter, base: Base, parts: list[Part], provenance: Provenance) -> dict[str, Any]:
    """The contents of adapter_config.json."""
    rank = max(module.rank for module in adapter.modules.values())
    parameters = [part.target for part in parts if part.parameter]
    wider = {re.escape(_place(part.target)[1]): part.rank for part in parts if part.rank != rank}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": provenance.base,
        "revision": provenance.base_commit,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _alpha(adapter, rank),
        "lora_dropout": 0.0 if parameters else adapter.dropout,
        "use_dora": adapter.dora,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        **_targets([part.target for part in parts if not part.parameter], base.layers),
    }
    if parameters:
        config["target_parameters"] = parameters
    if wider:
        config["rank_pattern"] = wider
        config["alpha_pattern"] = {name: _alpha(adapter, r) for name, r in wider.items()}
    if base.tied and any(module.embedding for module in adapter.modules.values()):
        config["ensure_weight_tying"] = True  # the output is adapted with the embedding, as mlx-lm does it
    return config


def _alpha(adapter: Adapter, rank: int) -> float:
    """PEFT multiplies by lora_alpha / r."""
    alpha = adapter.scale * rank
    return int(alpha) if alpha.is_integer() else alpha


def _place(name: str) -> tuple[int | None, str]:
    """A decoder layer's number and a name in it; None and the whole name outside the layers."""
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    return (int(found[1]), found[2]) if found else (None, name)


def _targets(names: list[str], layers: int) -> dict[str, Any]:
    """The adapted modules: by their names in a layer if the layers are alike, else by their whole names."""
    places = [_place(name) for name in names]
    depths = sorted({depth for depth, _ in places if depth is not None})
    keys = {key for depth, key in places if depth is not None}
    others = sorted(key for depth, key in places if depth is None)
    if len(depths) * len(keys) != len(names) - len(others):
        return {"target_modules": sorted(names)}
    some = {"layers_to_transform": depths, "layers_pattern": "layers"} if len(depths) < layers else {}
    return {"target_modules": [*sorted(keys), *others], **(some if depths else {})}
