"""LoRA and DoRA adapters on mlx-lm models, in mlx-lm's own modules and file format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from mlx_align.backends import adapter_files
from mlx_align.backends.adapter_init import initial_a
from mlx_align.backends.base import State
from mlx_align.backends.mlx.arrays import to_numpy
from mlx_align.backends.modules import choose_modules
from mlx_align.config import AdapterConfig
from mlx_align.errors import UsageError

LINEAR = (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear)
LEAVES = ("lora_a", "lora_b", "m")
"""The names of an adapter's arrays in mlx-lm's modules; m is DoRA's magnitude."""


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
    facts = adapter_files.describe(config, len(layers), keys)
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
        facts = adapter_files.read_facts(folder)
        model.freeze()
        load_adapters(model, str(folder))
        saved: Any = mx.load(str(folder / adapter_files.WEIGHTS))
        if missing := adapter_state(model).keys() - saved.keys():
            raise ValueError(f"it lacks {len(missing)} arrays, such as '{min(missing)}'")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
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
    adapter_files.check_shapes(shapes, state)
    model.load_weights([(name, mx.array(value)) for name, value in state.items()], strict=False)


def _module_keys(layers: list[nn.Module], wanted: str | tuple[str, ...]) -> list[str]:
    names = (name for layer in layers for name, module in layer.named_modules() if isinstance(module, LINEAR))
    return choose_modules(names, wanted)


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
