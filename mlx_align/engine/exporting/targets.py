"""Where an adapter can go: one entry a target, each made of a writer from `mlx_align.export`.

One more target is one function in `writers` and one entry in `TARGETS`.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_align.engine.exporting import writers
from mlx_align.engine.exporting.options import Options
from mlx_align.engine.exporting.origin import Origin
from mlx_align.engine.exporting.readers import base_bytes
from mlx_align.engine.exporting.writers import Job, Written
from mlx_align.errors import UsageError
from mlx_align.export import ollama
from mlx_align.export.base import Base
from mlx_align.export.comparing import bits_of
from mlx_align.hub import resolve_gguf

FORMATS = {
    "hub": ("peft", "mlx", "gguf-adapter", "hf", "mlx-fused", "gguf"),
    "lmstudio": ("gguf", "mlx-fused"),
    "ollama": ("gguf", "gguf-adapter"),
}
"""What a place takes; the first where nobody says: for the hub what is small."""

BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0}


@dataclass(frozen=True)
class Target:
    """A place that an adapter can go to.

    Attributes:
        says: what it is, for a person.
        write: fills the job's folder.
        then: what uses it, for its final path; empty where there is nothing to type.
        options: the options that belong to it.
        single: whether it is one file rather than a folder.
    """

    says: str
    write: Callable[[Job], Written]
    then: Callable[[Path, Origin, Options], str]
    options: frozenset[str] = frozenset()
    single: bool = False


def _formatted(job: Job) -> Written:
    """A place that takes several formats: what the format's own target writes."""
    return TARGETS[str(job.options.format)].write(job)


def _q(path: Path) -> str:
    return shlex.quote(str(path))


def _context(origin: Origin) -> str:
    """Keeps llama.cpp at the position factors for short texts (LongRoPE) where those were trained with."""
    read = origin.provenance.positions
    return f" -c {read['border']}" if read is not None and read["list"] == "short" else ""


GGUF_OPTIONS = frozenset({"type", "base_gguf"})
FUSED_OPTIONS = frozenset({"quantization", "bits", "dtype"})
PLACE_OPTIONS = frozenset({"format", "repo"})
SAY = '--prompt "Hello"'

TARGETS: dict[str, Target] = {
    "mlx": Target(
        "an adapter in mlx-lm's format", writers.write_mlx,
        lambda path, origin, options:
        f"mlx_lm.generate --model {_q(origin.folder)} --adapter-path {_q(path)} {SAY}",
    ),
    "peft": Target(
        "an adapter in PEFT's format", writers.write_peft,
        lambda path, origin, options: f"peft.PeftModel.from_pretrained(model, {str(path)!r})",
    ),
    "gguf-adapter": Target(
        "an adapter for llama.cpp", writers.write_gguf_adapter,
        lambda path, origin, options:
        f"llama-cli -m {_q(Path(options.base_gguf or 'BASE.gguf'))} --lora {_q(path)}{_context(origin)}",
        frozenset({"dtype", "base_gguf"}), single=True,
    ),
    "gguf": Target(
        "a merged model for llama.cpp", writers.write_gguf,
        lambda path, origin, options: f"llama-cli -m {_q(path)}{_context(origin)}", GGUF_OPTIONS, single=True,
    ),
    "hf": Target(
        "a merged model in the Hugging Face layout", writers.write_hf,
        lambda path, origin, options: f"transformers chat {_q(path)}", frozenset({"dtype"}),
    ),
    "mlx-fused": Target(
        "a merged model for mlx-lm", writers.write_fused,
        lambda path, origin, options: f"mlx_lm.generate --model {_q(path)} {SAY}", FUSED_OPTIONS,
    ),
    "ollama": Target(
        "a folder for `ollama create`", writers.write_ollama,
        lambda path, origin, options: f"ollama run {options.name}" if options.name and ollama.installed()
        else f"ollama create {options.name or origin.name} -f {_q(path / 'Modelfile')}",
        frozenset({"system", "template", "parameters", "name", "format"}),
    ),
    "lmstudio": Target(
        "a merged model where LM Studio looks for it", _formatted,
        lambda path, origin, options: f"lms load {_q(path.relative_to(path.parent.parent))}", PLACE_OPTIONS,
    ),
    "hub": Target(
        "a repository on the Hugging Face hub", _formatted, lambda path, origin, options: "",
        PLACE_OPTIONS | {"public"},
    ),
}  # fmt: skip


def find_target(name: str) -> Target:
    """A target by its name.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in TARGETS:
        near = difflib.get_close_matches(name, TARGETS, 1)
        raise UsageError(
            f"there is no target '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            where="--to",
            hint=f"Choose one of {', '.join(TARGETS)}.",
        )
    return TARGETS[name]


def settle(name: str, options: Options) -> Options:
    """The options of a target once they are checked, with the format that a place gets.

    Raises:
        UsageError: an option does not belong to the target or its format, or has a value that does not exist.
    """
    allowed, formats = find_target(name).options, FORMATS.get(name, ())
    options = replace(options, type=options.type and options.type.lower())  # llama.cpp says Q8_0
    if formats:
        options = replace(options, format=options.format or formats[0])
        if options.format not in formats:
            raise UsageError(
                f"{name} has no format '{options.format}'",
                where="--format",
                hint=f"Choose one of {', '.join(formats)}.",
            )
        allowed = allowed | TARGETS[str(options.format)].options
    options.check(name, allowed)
    return options


def needed_bytes(name: str, origin: Origin, options: Options) -> int:
    """About how much an export takes on the disk, at most, while it is written; `options` are settled."""
    small = sum(module.a.size + module.b.size for module in origin.adapter.modules.values()) * 4
    chosen = options.format or name
    if chosen == "gguf-adapter" and options.verify and options.base_gguf is None:
        return small + base_bytes(origin.base)  # it is tried on a base that is written for that
    if chosen in ("mlx", "peft", "gguf-adapter"):
        return small
    return small + _weights_bytes(chosen, origin.base, options)


def _weights_bytes(chosen: str, base: Base, options: Options) -> int:
    """About how much a merged model takes while it is written."""
    kind = options.type or options.dtype
    if kind is None and options.base_gguf is not None:  # merged K-quants become q8_0
        return resolve_gguf(options.base_gguf).stat().st_size + int(base.parameters * 1.1)
    if kind is None and chosen != "gguf" and not base.quantised:
        return sum(tensor.end - tensor.begin for tensor in base.tensors.values())
    kind = kind or ("f16" if chosen == "gguf" else "f32")
    bits = bits_of(kind)
    each = BYTES["f16"] + (bits + 2) / 8 if bits is not None else BYTES[kind]
    return int(base.parameters * each)
