"""LoRA and DoRA adapters in peft's modules, seen through mlx-lm's names and layout.

The neutral form is mlx-lm's. Its `lora_a` (in, r) and `lora_b` (r, out) are the transposes of peft's
`lora_A.weight` (r, in) and `lora_B.weight` (out, r); DoRA's `m` (out,) is peft's magnitude vector. A `Leaf`
shows a peft parameter in the neutral layout without copying it, so the border is in this file only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils.integrations import dequantize_module_weight
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from mlx_align.backends import adapter_files
from mlx_align.backends.adapter_init import initial_a
from mlx_align.backends.base import State
from mlx_align.backends.modules import choose_modules
from mlx_align.backends.torch.arrays import to_numpy
from mlx_align.config import AdapterConfig
from mlx_align.errors import UsageError

ADAPTER = "default"
"""peft's name for the one adapter."""


@dataclass(frozen=True)
class Leaf:
    """One trainable parameter.

    Attributes:
        parameter: peft's own, float32.
    """

    parameter: nn.Parameter

    def neutral(self, tensor: torch.Tensor) -> torch.Tensor:
        """A view of the parameter, or of a tensor of its shape, in mlx-lm's layout."""
        return tensor.T if tensor.ndim == 2 else tensor

    @property
    def value(self) -> torch.Tensor:
        """The parameter in mlx-lm's layout; writing to it changes the parameter."""
        return self.neutral(self.parameter.data)


@dataclass(frozen=True)
class Attached:
    """An adapter on a model.

    Attributes:
        facts: the contents of mlx-lm's adapter_config.json.
        leaves: neutral name -> parameter, sorted by name.
        layers: peft's adapted layers, whose dropout training switches on.
    """

    facts: dict[str, Any]
    leaves: dict[str, Leaf]
    layers: list[nn.Module]

    def state(self) -> State:
        """The adapter's arrays, float32, by mlx-lm's names."""
        return {name: to_numpy(leaf.value) for name, leaf in self.leaves.items()}

    def load(self, state: State) -> None:
        """Replace the adapter's arrays.

        Raises:
            UsageError: names or shapes differ.
        """
        shapes = {name: tuple(leaf.value.shape) for name, leaf in self.leaves.items()}
        adapter_files.check_shapes(shapes, state)
        for name, leaf in self.leaves.items():
            leaf.value.copy_(torch.tensor(state[name]))


def attach_new(model: Any, config: AdapterConfig, seed: int) -> Attached:
    """Freeze the model and put a fresh adapter on it.

    Raises:
        UsageError: no layer has a module of the given names, or the model's layers cannot be found.
    """
    _, layers = _decoder_layers(model)
    count = len(layers) if config.layers == "all" else min(config.layers, len(layers))
    keys = _module_keys(layers[-count:], config.modules)
    attached = _attach(model, _targets(model, keys, count), adapter_files.describe(config, count, keys))
    for name, leaf in attached.leaves.items():
        if name.endswith("lora_a"):
            leaf.value.copy_(torch.tensor(initial_a(name, tuple(leaf.value.shape), seed)))
    return attached


def attach_saved(model: Any, folder: Path) -> Attached:
    """Freeze the model and put a saved adapter on it.

    Raises:
        UsageError: the folder is not an adapter in mlx-lm's format, or it belongs to another base.
    """
    try:
        facts = adapter_files.read_facts(folder)
        state = load_file(folder / adapter_files.WEIGHTS)
        keys = facts["lora_parameters"].get("keys")
        present = sorted({name.rpartition(".")[0] for name in state})
        targets = present if keys is None else _targets(model, keys, facts["num_layers"])
        if strange := [n for n in (*targets, *present) if not isinstance(_submodule(model, n), nn.Linear)]:
            raise ValueError(f"the model has no linear layer '{strange[0]}'")
        attached = _attach(model, targets, facts)
        attached.load(state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, UsageError) as error:
        told = f"{error.where}: {error.message}" if isinstance(error, UsageError) else str(error)
        raise UsageError(
            f"the adapter cannot be used with this model: {told}",
            where=str(folder),
            hint="It must be a folder with adapter_config.json and adapters.safetensors made for this base.",
        ) from None
    return attached


def _targets(model: Any, keys: list[str], count: int) -> list[str]:
    """Full names of the adapted modules, as mlx-lm reads keys and num_layers.

    Args:
        model: the model.
        keys: names relative to a decoder layer, or to the whole model ("lm_head").
        count: how many layers, counted from the last; 0 or less means all.
    """
    prefix, layers = _decoder_layers(model)
    first = max(0, len(layers) - count) if count > 0 else 0
    names = [f"{prefix}.{index}.{key}" for index in range(first, len(layers)) for key in keys]
    return [name for name in (*names, *keys) if isinstance(_submodule(model, name), nn.Linear)]


def _attach(model: Any, targets: list[str], facts: dict[str, Any]) -> Attached:
    """Put peft's layers in the place of the target modules; A is still to be given its first values."""
    numbers = facts["lora_parameters"]
    dora = facts.get("fine_tune_type", "lora") == "dora"
    config = LoraConfig(
        r=numbers["rank"],
        lora_alpha=numbers["scale"] * numbers["rank"],  # peft multiplies by alpha / r
        lora_dropout=numbers.get("dropout", 0.0),
        target_modules=targets,
        use_dora=dora,
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model, ADAPTER)  # what get_peft_model does, without its wrapper
    leaves: dict[str, Leaf] = {}
    layers = [model.get_submodule(name) for name in targets]
    for name, layer in zip(targets, layers, strict=True):
        parts = {"lora_a": layer.lora_A[ADAPTER].weight, "lora_b": layer.lora_B[ADAPTER].weight}
        if dora:
            parts["m"] = layer.lora_magnitude_vector[ADAPTER].weight
            # In float32, as mlx-lm has it: peft rounds it to the base's own type.
            weight = dequantize_module_weight(layer.get_base_layer()).float()
            parts["m"].data = torch.linalg.norm(weight, dim=1)
        leaves.update({f"{name}.{part}": Leaf(_as_float32(value)) for part, value in parts.items()})
    return Attached(facts, dict(sorted(leaves.items())), layers)


def _as_float32(parameter: nn.Parameter) -> nn.Parameter:
    """The same parameter, a float32 master whatever the base's type is."""
    parameter.data = parameter.data.float()
    return parameter


def _decoder_layers(model: Any) -> tuple[str, nn.ModuleList]:
    """The list of decoder layers and its name in the model ("model.layers")."""
    layers = getattr(model.get_decoder(), "layers", None)
    name = next((name for name, module in model.named_modules() if module is layers), None)
    if not isinstance(layers, nn.ModuleList) or name is None:
        raise UsageError(
            f"the torch backend does not find the decoder layers of a {type(model).__name__}",
            where="model.path",
            hint="Use backend.name=mlx.",
        )
    return name, layers


def _submodule(module: nn.Module, name: str) -> nn.Module | None:
    try:
        found: nn.Module = module.get_submodule(name)
    except AttributeError:
        return None
    return found


def _module_keys(layers: nn.ModuleList, wanted: str | tuple[str, ...]) -> list[str]:
    names = (
        name for layer in layers for name, module in layer.named_modules() if isinstance(module, nn.Linear)
    )
    keys = choose_modules(names, wanted)
    stacked = any(parameter.ndim == 3 for layer in layers for parameter in layer.parameters())
    if stacked and wanted in ("all", "mlp"):
        raise UsageError(
            "this model keeps its experts in stacked arrays, which the torch backend cannot adapt",
            where="adapter.modules",
            hint="Use adapter.modules=attention, or backend.name=mlx.",
        )
    return keys
