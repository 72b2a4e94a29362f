"""An adapter in neutral form, and mlx-lm's files, which are the form that a run leaves behind.

adapters.safetensors   `<module path>.lora_a` (in, r) and `.lora_b` (r, out); stacked experts (E, r, in) and
                       (E, out, r); an embedding (tokens, r) and (r, width); DoRA's `.m` (out,)
adapter_config.json    fine_tune_type, num_layers, lora_parameters {rank, scale, dropout, keys}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import DataError, UsageError
from mlx_align.export.tensors import Tensors, Writer, encode

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
PARTS = ("lora_a", "lora_b", "m")
EMBEDDINGS = ("embed_tokens", "wte", "embed", "embeddings", "word_embeddings", "tok_embeddings", "embed_in")
"""What mlx-lm's models call an embedding; the shapes of its A and B do not tell it from a linear layer."""


@dataclass(frozen=True)
class Module:
    """What an adapter does to one module: delta W = scale * b @ a.

    Args:
        a: (r, in), or (E, r, in) for stacked experts; (r, tokens) for an embedding.
        b: (out, r), or (E, out, r); (width, r) for an embedding.
        magnitude: DoRA's: (out,), (E, out) or, for an embedding, (tokens,); None without DoRA.
        embedding: the delta is scale * (b @ a).T, because an embedding's matrix is (tokens, width).
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    magnitude: NDArray[np.float32] | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        """The rank of the delta, one expert's where there are several."""
        return int(self.a.shape[-2])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix that it changes: (out, in), (E, out, in) or (tokens, width)."""
        columns, rows = self.a.shape[-1], self.b.shape[-2]
        return (columns, rows) if self.embedding else (*self.a.shape[:-2], rows, columns)

    def expert(self, index: int) -> Module:
        """The part that belongs to one of the stacked experts."""
        magnitude = None if self.magnitude is None else self.magnitude[index]
        return Module(self.a[index], self.b[index], magnitude)


@dataclass(frozen=True)
class Adapter:
    """A whole adapter.

    Args:
        modules: by mlx-lm's module path: "model.layers.0.self_attn.q_proj", "lm_head".
        scale: alpha / rank, as mlx-lm has it.
        dropout: of its training; nothing in an export depends on it.
        facts: adapter_config.json as it was read.
    """

    modules: dict[str, Module]
    scale: float
    dropout: float
    facts: dict[str, Any]

    @property
    def dora(self) -> bool:
        """Whether a module has a magnitude."""
        return any(module.magnitude is not None for module in self.modules.values())


def read(folder: Path) -> Adapter:
    """Read an adapter in mlx-lm's format.

    Raises:
        UsageError: the folder holds no such adapter.
        DataError: its files are damaged, or a number in it is not finite.
    """
    facts = _facts(folder)
    parameters = facts["lora_parameters"]
    tensors = Tensors.open(folder, WEIGHTS)
    parts: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part not in PARTS:
            raise UsageError(f"'{name}' is not part of a LoRA or DoRA adapter", where=str(folder / WEIGHTS))
        value = parts.setdefault(module, {})[part] = tensor.float32()
        if not np.isfinite(value).all():
            raise DataError(f"'{name}' has numbers that are not finite", where=str(folder / WEIGHTS))
    modules = {name: _module(name, parts[name], folder) for name in sorted(parts)}
    return Adapter(modules, float(parameters["scale"]), float(parameters.get("dropout", 0.0)), facts)


def _facts(folder: Path) -> dict[str, Any]:
    """adapter_config.json, once it is sure to describe a LoRA or a DoRA."""
    path = folder / CONFIG
    hint = "Give a run, or a folder with adapters.safetensors and adapter_config.json as mlx-lm writes them."
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise UsageError("the folder is not an adapter in mlx-lm's format", where=str(folder), hint=hint)
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = facts.get("fine_tune_type", "lora")
        float(facts["lora_parameters"]["scale"]), float(facts["lora_parameters"].get("dropout", 0.0))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"not the configuration of an adapter of mlx-lm: {error!r}", where=str(path), hint=hint
        ) from None
    if kind not in ("lora", "dora"):
        raise UsageError(f"fine_tune_type '{kind}' is not an adapter", where=str(path))
    return facts


def _module(name: str, parts: Mapping[str, NDArray[np.float32]], folder: Path) -> Module:
    """One module of the file in neutral form: all but stacked experts are transposed there."""
    a, b = parts.get("lora_a"), parts.get("lora_b")
    if a is None or b is None:
        raise DataError(f"'{name}' lacks lora_a or lora_b", where=str(folder / WEIGHTS))
    if a.ndim == 2 and b.ndim == 2:
        a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    fits = a.ndim == b.ndim in (2, 3) and a.shape[:-2] == b.shape[:-2] and a.shape[-2] == b.shape[-1]
    if not fits:
        shapes = f"{parts['lora_a'].shape} and {parts['lora_b'].shape}"
        raise DataError(f"lora_a and lora_b of '{name}' do not fit: {shapes}", where=str(folder / WEIGHTS))
    module = Module(a, b, parts.get("m"), embedding=name.rpartition(".")[2] in EMBEDDINGS)
    if module.magnitude is not None and module.magnitude.shape != module.shape[:-1]:
        raise DataError(f"the magnitude of '{name}' has not its rows", where=str(folder / WEIGHTS))
    return module


def write(folder: Path, adapter: Adapter, metadata: Mapping[str, str] | None = None) -> list[Path]:
    """Write both files into an existing folder.

    Args:
        folder: where to.
        adapter: `facts` becomes adapter_config.json; `describe` makes one for an adapter from elsewhere.
        metadata: free text by key, for the safetensors file.

    Returns:
        The two files.
    """
    arrays: dict[str, NDArray[np.float32]] = {}
    for path, module in adapter.modules.items():
        arrays |= _arrays(path, module)
    weights, config = folder / WEIGHTS, folder / CONFIG
    with Writer(weights, [(name, "F32", a.shape) for name, a in arrays.items()], metadata or {}) as writer:
        for name, array in arrays.items():
            writer.write(name, encode(array, "F32"))
    config.write_text(json.dumps(adapter.facts, indent=2) + "\n", encoding="utf-8")
    return [weights, config]


def _arrays(path: str, module: Module) -> dict[str, NDArray[np.float32]]:
    """The arrays of a module under their names in the file and in its layout."""
    a, b = (module.a, module.b) if module.a.ndim == 3 else (module.a.T, module.b.T)
    magnitude = {} if module.magnitude is None else {f"{path}.m": module.magnitude}
    return {f"{path}.lora_a": a, f"{path}.lora_b": b, **magnitude}


def describe(modules: Mapping[str, Module], layers: int, scale: float, dropout: float) -> dict[str, Any]:
    """The contents of adapter_config.json for these modules.

    Args:
        modules: by mlx-lm's module path.
        layers: how many decoder layers the model has.
        scale: alpha / rank.
        dropout: of its training.

    Returns:
        What mlx-lm makes these modules of: by their names in a layer if the last layers are adapted alike,
        otherwise by their whole names.
    """
    inner = {name: match for name in modules if (match := re.search(r"\blayers\.(\d+)\.(.+)", name))}
    depths = sorted({int(match[1]) for match in inner.values()})
    keys = {match[2] for match in inner.values()}
    alike = depths == list(range(layers - len(depths), layers)) and len(inner) == len(depths) * len(keys)
    rank = max((module.rank for module in modules.values()), default=0)
    dora = any(module.magnitude is not None for module in modules.values())
    named = sorted((keys if alike else inner.keys()) | (modules.keys() - inner.keys()))
    return {
        "fine_tune_type": "dora" if dora else "lora",
        "num_layers": len(depths) if alike else layers,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": dropout, "keys": named},
    }
