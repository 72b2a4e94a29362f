"""LoRA and DoRA adapters on mlx-lm models, in mlx-lm's own modules and file format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from mlx_align.backends.adapter_init import initial_a
from mlx_align.backends.base import State
from mlx_align.backends.mlx.arrays import to_numpy
from mlx_align.config import AdapterConfig
from mlx_align.errors import UsageError

LINEAR = (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear)
LEAVES = ("lora_a", "lora_b", "m")
"""The names of an adapter's arrays in mlx-lm's modules; m is DoRA's magnitude."""
GROUPS = {"attention": ("attn", "attention"), "mlp": ("mlp", "feed_forward", "moe", "ffn")}


def attach_new(model: nn.Module, config: AdapterConfig, seed: int) -> dict[str, Any]:
    """Freeze the model and put a fresh adapter on it.

    Returns:
        the contents of mlx-lm's adapter_config.json.

    Raises:
        UsageError: no layer has a module of the given names, or this kind cannot be put on this base.

    """
    layers = model.layers if config.layers == "all" else model.layers[-config.layers :]
    keys = _module_keys(layers, config.modules)
    if config.type == "dora":
        _check_dora(layers, keys)
    facts = {
        "fine_tune_type": config.type,
        "num_layers": len(layers),
        "lora_parameters": {
            "rank": config.rank,
            "scale": config.scale,
            "dropout": config.dropout,
            "keys": keys,
        },
    }
    model.freeze()
    linear_to_lora_layers(model, len(layers), facts["lora_parameters"], use_dora=config.type == "dora")
    first = {
        name: mx.array(initial_a(name, value.shape, seed))
        for name, value in tree_flatten(model.trainable_parameters())
        if name.endswith("lora_a")
    }
    model.load_weights(list(first.items()), strict=False)
    return facts


def attach_saved(model: nn.Module, folder: Path) -> dict[str, Any]:
    """Freeze the model and put a saved adapter on it.

    Returns:
        the contents of its adapter_config.json.

    Raises:
        UsageError: the folder is not an adapter in mlx-lm's format, or it belongs to another base.

    """
    try:
        facts: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if facts.get("fine_tune_type", "lora") not in ("lora", "dora"):
            raise ValueError(f"fine_tune_type '{facts['fine_tune_type']}' is not an adapter")
        model.freeze()
        load_adapters(model, str(folder))
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise UsageError(
            f"the adapter cannot be used with this model: {error}",
            where=str(folder),
            hint="It must be a folder with adapter_config.json and adapters.safetensors made for this base.",
        ) from None
    return facts


def adapter_state(model: nn.Module) -> State:
    """The adapter's arrays, float32, by mlx-lm's names."""
    return {
        name: to_numpy(value)
        for name, value in tree_flatten(model.parameters())
        if name.rsplit(".", 1)[-1] in LEAVES
    }


def load_state(model: nn.Module, state: State) -> None:
    """Replace the adapter's arrays.

    Raises:
        UsageError: names or shapes differ.

    """
    shapes = {name: value.shape for name, value in adapter_state(model).items()}
    wrong = sorted(
        name for name in shapes.keys() | state.keys()
        if name not in state or name not in shapes or state[name].shape != shapes[name]
    )  # fmt: skip
    if wrong:
        raise UsageError(
            f"the saved adapter has another shape than this one: {len(wrong)} arrays differ",
            where=wrong[0],
            hint="Use the configuration the adapter was trained with.",
        )
    model.load_weights([(name, mx.array(value)) for name, value in state.items()], strict=False)


def save(model: nn.Module, facts: dict[str, Any], folder: Path) -> None:
    """Write adapters.safetensors and adapter_config.json."""
    from safetensors.numpy import save_file

    save_file(adapter_state(model), folder / "adapters.safetensors")
    text = json.dumps(facts, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _module_keys(layers: list[nn.Module], wanted: str | tuple[str, ...]) -> list[str]:
    available = sorted(
        {name for layer in layers for name, module in layer.named_modules() if isinstance(module, LINEAR)}
    )
    if isinstance(wanted, str):
        marks = GROUPS.get(wanted, ("",))
        keys = [name for name in available if any(mark in name for mark in marks)]
        unmatched = [] if keys else [wanted]
    else:
        keys = [n for n in available if n in wanted or n.rsplit(".", 1)[-1] in wanted]
        unmatched = [w for w in wanted if not any(w in (k, k.rsplit(".", 1)[-1]) for k in keys)]
    if unmatched:
        raise UsageError(
            f"the model's layers have no module '{unmatched[0]}'",
            where="adapter.modules",
            hint=f"They have: {', '.join(available)}.",
        )
    return keys


def _check_dora(layers: list[nn.Module], keys: list[str]) -> None:
    for layer in layers:
        for name, module in layer.named_modules():
            if name not in keys:
                continue
            if isinstance(module, SwitchLinear | QuantizedSwitchLinear):
                raise UsageError(
                    f"DoRA cannot adapt the expert layer '{name}'",
                    where="adapter.type",
                    hint="Use adapter.type=lora, or adapter.modules=attention.",
                )
            if isinstance(module, nn.QuantizedLinear) and 32 % module.bits:
                raise UsageError(
                    f"DoRA cannot adapt a base quantised to {module.bits} bits",
                    where="adapter.type",
                    hint="Use adapter.type=lora, or a 2-, 4- or 8-bit base.",
                )
