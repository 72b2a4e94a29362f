"""Where an adapter can go: what a screen shows of the targets before any of them is asked for.

`mlx_align.engine.exporting` knows them better, and loads a backend for it; a test sees that both agree.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from mlx_align import installing
from mlx_align.errors import AlignError
from mlx_align.runs import RunDirectory

USUAL = "usual"
"""The first value of a choice is what holds where nothing is chosen."""

LOADERS = {
    "mlx": ("mlx-lm", installing.command("cpu")),
    "torch": ("torch", installing.command("torch")),
    "peft": ("peft", installing.command("torch")),
    "llama": ("llama.cpp", installing.command("gguf")),
    "ollama": ("ollama", "https://ollama.com/download"),
    "lmstudio": ("LM Studio", "start LM Studio once"),
    "hub": ("a token", "hf auth login"),
}
"""What may be needed -> its name, and how one comes by it."""

MODULES = {
    "mlx": ("mlx", "mlx_lm"),
    "torch": ("torch", "transformers"),
    "peft": ("torch", "transformers", "peft"),
}
ADAPTERS = ("mlx", "peft", "gguf-adapter")

BITS = {
    "f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8_0": 8.5, "q6_k": 6.6,
    "q5_k_m": 5.7, "q5_1": 6.0, "q4_k_m": 4.9, "q4_0": 4.5,
}  # fmt: skip
"""Bits a weight by type, as llama.cpp's own table of quantisations has them."""


@dataclass(frozen=True)
class Kind:
    """A target.

    Attributes:
        says: what it is, in a few words.
        about: whom it is for, in plain words; Textual markup.
        options: its own options.
        formats: what the place takes, the usual one first; () where the target is a format.
        loaders: the programs that it can be tried with, one of them is enough.
        place: what the place itself needs.
    """

    says: str
    about: str
    options: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    loaders: tuple[str, ...] = ()
    place: str | None = None


KINDS: dict[str, Kind] = {
    "mlx": Kind(
        "adapter for mlx-lm", "A few megabytes beside the base, for [b]mlx_lm.generate[/] and its server.",
        loaders=("mlx",),
    ),
    "peft": Kind(
        "adapter for PEFT", "A few megabytes, for [b]transformers[/], vLLM and most of the Python world.",
        loaders=("peft",),
    ),
    "gguf-adapter": Kind(
        "adapter for llama.cpp", "A few megabytes for [b]llama.cpp --lora[/], on a GGUF of the same base.",
        ("dtype", "base_gguf"), loaders=("llama",),
    ),
    "gguf": Kind(
        "model for llama.cpp", "Base and adapter in one file, for [b]llama.cpp[/] and what is built on it.",
        ("type", "base_gguf"), loaders=("llama",),
    ),
    "hf": Kind(
        "model for transformers", "Base and adapter in one folder, as models on the hub are laid out.",
        ("dtype",), loaders=("torch", "mlx"),
    ),
    "mlx-fused": Kind(
        "model for mlx-lm", "Base and adapter in one folder, for [b]mlx_lm[/] and Apple machines.",
        ("quantization", "bits", "dtype"), loaders=("mlx",),
    ),
    "ollama": Kind(
        "folder for ollama create", "A model file and a Modelfile with the chat template, for [b]Ollama[/].",
        ("system", "template", "parameters", "name"), ("gguf", "gguf-adapter"), place="ollama",
    ),
    "lmstudio": Kind(
        "model in LM Studio", "A merged model in the folder where [b]LM Studio[/] looks for models.",
        ("repo",), ("gguf", "mlx-fused"), place="lmstudio",
    ),
    "hub": Kind(
        "repository on the hub", "Uploads an export and its model card to [b]huggingface.co[/].",
        ("repo", "public"), ("peft", "mlx", "gguf-adapter", "hf", "mlx-fused", "gguf"), place="hub",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """What sizes are estimated from: the base's numbers and bytes, the adapter's bytes in float32."""

    parameters: int
    stored: int
    quantised: bool
    adapter: int


def format_of(name: str, values: Mapping[str, str]) -> str:
    """What a target is written as."""
    formats = KINDS[name].formats
    return values.get("format") or formats[0] if formats else name


def options_of(name: str, values: Mapping[str, str]) -> tuple[str, ...]:
    """The options that a target has with the format that is chosen."""
    kind = KINDS[name]
    if not kind.formats:
        return kind.options
    inner = KINDS[format_of(name, values)].options
    return ("format", *kind.options, *inner)


def needs_of(name: str, values: Mapping[str, str]) -> tuple[tuple[str, ...], str | None]:
    """The programs that a target can be tried with, and what its place needs."""
    kind = KINDS[name]
    return (kind.loaders or KINDS[format_of(name, values)].loaders), kind.place


def size_of(name: str, values: Mapping[str, str], weights: Weights) -> int:
    """About how many bytes a target will have."""
    written = format_of(name, values)
    if written in ADAPTERS:
        return weights.adapter // 2 if values.get("dtype") == "f16" else weights.adapter
    if written == "gguf":
        return int(weights.parameters * BITS.get(values.get("type", ""), 16.0) / 8)
    if written == "mlx-fused" and (bits := values.get("bits") or _again(values)):
        return int(weights.parameters * (float(bits) + 0.5) / 8)  # 0.5: a scale and a bias for each 64
    dtype = values.get("dtype")
    dissolved = written == "hf" or values.get("quantization") == "none"
    if dtype is None and not (dissolved and weights.quantised):
        return weights.stored
    return int(weights.parameters * BITS[dtype or "bf16"] / 8)


def _again(values: Mapping[str, str]) -> str:
    return "4" if values.get("quantization") == "again" else ""


def weigh(run: RunDirectory) -> Weights | None:
    """What sizes are estimated from; None where model or adapter are not on this disk."""
    from mlx_align.export.base import Base
    from mlx_align.runs.chosen import adapter_of
    from mlx_align.weights import weight_files

    try:
        base = Base.open(Path(str(run.env()["model_folder"])))
        adapter = sum(file.stat().st_size for file in adapter_of(run, None).glob("*.safetensors"))
        stored = sum(file.stat().st_size for file in weight_files(base.folder))
        return Weights(base.parameters, stored, base.quantised, adapter)
    except (AlignError, OSError, KeyError):
        return None


def here() -> frozenset[str]:
    """Which of `LOADERS` this machine has; nothing is loaded for it."""
    from huggingface_hub import get_token

    from mlx_align.export import llama, lmstudio

    found = {name for name, modules in MODULES.items() if all(map(find_spec, modules))}
    found |= {"llama"} if llama.available() else set()
    found |= {"ollama"} if shutil.which("ollama") else set()
    found |= {"lmstudio"} if lmstudio.home() else set()
    found |= {"hub"} if get_token() else set()
    return frozenset(found)
