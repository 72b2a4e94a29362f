"""Reading PEFT's format: its modules in neutral form, with one rank and one scale as mlx-lm has them.

Smaller ranks are filled up with zeros, and the factor by which a module's own alpha / r differs goes into
its B. What mlx-lm has no place for is refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import DataError, UsageError
from mlx_align.export.adapter import EMBEDDINGS, Module
from mlx_align.export.base import Base
from mlx_align.export.peft_layout import (
    CONFIG,
    MIXTURES,
    PICKLED,
    PREFIX,
    WEIGHTS,
    padded,
    separated,
    stacked,
)
from mlx_align.export.tensors import Tensor, Tensors

Arrays = dict[str, NDArray[np.float32]]
"""PEFT's arrays of one module, by the values of `ENDS`."""

Found = tuple[Module, float]
"""A module with its own rank, and its own alpha / r."""

ENDS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
    ".lora_magnitude_vector": "magnitude",
}

REFUSED = {
    "modules_to_save": "it brings whole modules besides its LoRA",
    "trainable_token_indices": "it brings embeddings of single tokens",
    "lora_bias": "its B has a bias",
    "layer_replication": "it repeats layers of the base",
    "fan_in_fan_out": "its matrices are transposed (GPT-2's Conv1D)",
    "use_qalora": "QA-LoRA pools the input of A",
    "use_bdlora": "its matrices are block diagonal",
    "alora_invocation_tokens": "an activated LoRA works from certain tokens on only",
    "arrow_config": "Arrow routes between several adapters",
    "kasa_config": "KaSA changes the base's weights",
    "monteclora_config": "MonteCLoRA draws its weights at random",
}
"""Settings of PEFT for which mlx-lm has no place."""

PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's weights as they are."""


def read(folder: Path, facts: Mapping[str, Any], base: Base) -> tuple[dict[str, Module], float]:
    """Read an adapter in PEFT's format.

    Args:
        folder: where it lies.
        facts: its adapter_config.json.
        base: the model that it was trained on.

    Returns:
        its modules by mlx-lm's path, and their scale.

    Raises:
        UsageError: mlx-lm cannot express it, or its files do not fit each other.
        DataError: they are damaged.
    """
    _refuse(facts, folder)
    modules, scale = _uniform(_found(folder, facts, base), folder)
    return _stacked_experts(modules, base), scale


def _refuse(facts: Mapping[str, Any], folder: Path) -> None:
    """See that it is a LoRA or a DoRA, all of it."""
    where = str(folder / CONFIG)
    if facts["peft_type"] != "LORA":
        raise UsageError(f"a {facts['peft_type']} adapter is neither LoRA nor DoRA", where=where)
    for key, reason in REFUSED.items():
        if facts.get(key):
            raise UsageError(f"mlx-lm cannot express this adapter: {reason}", where=f"{where}, key '{key}'")
    if facts.get("bias", "none") != "none":
        raise UsageError("mlx-lm cannot express this adapter: it brings biases", where=f"{where}, key 'bias'")
    if facts.get("init_lora_weights") not in PLAIN_STARTS:
        raise UsageError(
            f"it began as {facts['init_lora_weights']}, which changes the base's weights",
            where=f"{where}, key 'init_lora_weights'",
            hint="Save it with peft's `path_initial_model_for_weight_conversion`: it makes a plain LoRA.",
        )
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLED).is_file():
            raise UsageError(
                f"{PICKLED} is a pickle, which can run any program when it is read",
                where=str(folder),
                hint="If you trust it, load it with peft and save it again: it writes safetensors.",
            )
        raise UsageError(f"there is no {WEIGHTS}", where=str(folder))


def _found(folder: Path, facts: Mapping[str, Any], base: Base) -> dict[str, Found]:
    """PEFT's modules in neutral form, those of stacked experts under mlx-lm's names."""
    parts: dict[str, Arrays] = {}
    for name, tensor in Tensors([folder / WEIGHTS]).items():
        end = next((end for end in ENDS if name.endswith(end)), None)
        if end is None or not name.startswith(PREFIX):
            _check_copy(name, tensor, base, folder)
            continue
        path, value = name.removeprefix(PREFIX).removesuffix(end), tensor.float32()
        parts.setdefault(path, {})[ENDS[end]] = value
        if not np.isfinite(value).all():
            raise DataError(f"'{name}' has numbers that are not finite", where=str(folder / WEIGHTS))
    if base.tied:
        _check_tied(parts, facts, folder)
    found: dict[str, Found] = {}
    try:
        for path in sorted(parts):
            if re.search(r"\.experts(\.|$)", path) and base.architecture not in MIXTURES:
                raise UsageError(
                    f"how mlx-lm names the experts of {base.architecture} is not known", where=path
                )
            if re.search(r"\.experts(\.base_layer)?$", path):
                found |= _expert_parameter(path, parts, facts, base)
            else:
                module = _module(parts[path], dora=bool(facts.get("use_dora")))
                found[path] = (module, _scaling(path, module.rank, facts))
    except (ValueError, KeyError, TypeError, ZeroDivisionError, re.error) as error:
        raise UsageError(f"'{path}' cannot be read: {error!r}", where=str(folder)) from None
    return found


def _check_copy(name: str, tensor: Tensor, base: Base, folder: Path) -> None:
    """PEFT saves an adapted embedding's own matrix as well, which does no harm if it is the base's."""
    module = name.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".base_layer")
    known = name.endswith(".weight") and module.rpartition(".")[2] in (*EMBEDDINGS, "lm_head")
    if known and base.tied and module == "lm_head":
        module = "model.embed_tokens"
    if not known or not base.has(module) or not np.array_equal(base.weight(module), tensor.float32()):
        raise UsageError(
            f"'{name}' is neither part of a LoRA nor a copy of the base's weights",
            where=str(folder / WEIGHTS),
        )


def _check_tied(parts: dict[str, Arrays], facts: Mapping[str, Any], folder: Path) -> None:
    """Refuse what changes one side of an embedding that is input and output; drop the output's copy.

    mlx-lm always adapts both sides alike, PEFT if it is told to; it then saves the output's adapter as well.
    """
    head = parts.pop("lm_head", None)
    embedding = next((arrays for arrays in parts.values() if "embedding_a" in arrays), None)
    if head is None and embedding is None:
        return
    alike = bool(facts.get("ensure_weight_tying")) and embedding is not None
    if alike and head is not None and embedding is not None:
        pairs = (("a", "embedding_b"), ("b", "embedding_a"))
        alike = all(np.array_equal(head[one], embedding[other].T) for one, other in pairs)
    if not alike:
        raise UsageError(
            "it changes one side of an embedding that is input and output at once",
            where=str(folder / WEIGHTS),
            hint="mlx-lm adapts both sides alike; in PEFT that is ensure_weight_tying=True.",
        )


def _module(arrays: Arrays, *, dora: bool) -> Module:
    """A linear layer or an embedding.

    Raises:
        ValueError: A and B do not fit each other, or mlx-lm's DoRA is another one.
        KeyError: one of them is missing.
    """
    embedding = "embedding_a" in arrays
    a, b = (arrays["embedding_a"], arrays["embedding_b"]) if embedding else (arrays["a"], arrays["b"])
    if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1]:
        raise ValueError(f"A {a.shape} and B {b.shape} do not fit each other")
    if dora != ("magnitude" in arrays):
        raise ValueError("use_dora is set and there is no magnitude, or the other way round")
    if embedding and dora:
        raise ValueError("PEFT's DoRA scales an embedding's columns, mlx-lm's its rows")
    return Module(a, b, arrays.get("magnitude"), embedding)


def _expert_parameter(
    path: str, parts: Mapping[str, Arrays], facts: Mapping[str, Any], base: Base
) -> dict[str, Found]:
    """One of a block's two parameters of stacked experts, in mlx-lm's modules.

    If both are adapted, `experts` is down_proj and `experts.base_layer` is gate_up_proj. If one is, it is
    `experts`, and the configuration says which.
    """
    experts = path.removesuffix(".base_layer")
    block = experts.removesuffix(".experts")
    inner = path != experts or (
        f"{experts}.base_layer" not in parts and _is_parameter(f"{experts}.gate_up_proj", facts)
    )
    count = base.shape(f"{block}.switch_mlp.down_proj")[0]
    module = stacked(parts[path]["a"], parts[path]["b"], count)
    scaling = _scaling(f"{experts}.{'gate_up_proj' if inner else 'down_proj'}", module.rank, facts)
    modules = separated(module) if inner else {"down_proj": module}
    return {f"{block}.switch_mlp.{name}": (part, scaling) for name, part in modules.items()}


def _is_parameter(name: str, facts: Mapping[str, Any]) -> bool:
    """Whether the configuration names a parameter, whole or by its last parts."""
    return any(f".{name}".endswith(f".{target}") for target in facts.get("target_parameters") or ())


def _scaling(path: str, rank: int, facts: Mapping[str, Any]) -> float:
    """Alpha / r of a module, by its own alpha if it has one.

    Raises:
        KeyError, TypeError: lora_alpha is missing or no number.
    """
    name = f"{path}.weight" if _is_parameter(f"{path}.weight", facts) else path
    patterns = facts.get("alpha_pattern") or {}
    own = next((alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), None)
    alpha = facts["lora_alpha"] if own is None else own
    return float(alpha) / (math.sqrt(rank) if facts.get("use_rslora") else rank)


def _uniform(found: Mapping[str, Found], folder: Path) -> tuple[dict[str, Module], float]:
    """The same changes with one rank and one scale, and that scale."""
    if not found:
        raise UsageError("the adapter is empty", where=str(folder / WEIGHTS))
    scale = Counter(scaling for _, scaling in found.values()).most_common(1)[0][0]
    if not scale > 0:
        raise UsageError(
            f"its scale is {scale}, so it changes nothing", where=f"{folder / CONFIG}, key 'lora_alpha'"
        )
    rank = max(module.rank for module, _ in found.values())
    modules = {}
    for name, (module, scaling) in found.items():
        b = module.b if scaling == scale else module.b * np.float32(scaling / scale)
        modules[name] = padded(Module(module.a, b, module.magnitude, module.embedding), rank)
    return modules, scale


def _stacked_experts(modules: Mapping[str, Module], base: Base) -> dict[str, Module]:
    """Experts that are adapted one by one, in mlx-lm's stacks; one without an adapter gets zeros.

    Raises:
        UsageError: one of them has DoRA, which mlx-lm has not for stacks.
    """
    done: dict[str, Module] = {}
    stacks: dict[str, dict[int, Module]] = {}
    for name, module in modules.items():
        one = re.fullmatch(r"(.+)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj)", name)
        if one:
            stacks.setdefault(f"{one[1]}.switch_mlp.{one[3]}", {})[int(one[2])] = module
        else:
            done[name] = module
    for name, experts in stacks.items():
        if any(expert.magnitude is not None for expert in experts.values()):
            raise UsageError("mlx-lm cannot express this adapter: it has DoRA on experts", where=name)
        some = next(iter(experts.values()))
        nothing = Module(np.zeros_like(some.a), np.zeros_like(some.b))
        whole = [experts.get(index, nothing) for index in range(base.shape(name)[0])]
        done[name] = Module(np.stack([e.a for e in whole]), np.stack([e.b for e in whole]))
    return done
