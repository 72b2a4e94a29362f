"""The programs that will use an export, each behind `export.evidence.Reader`, and what having them takes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from mlx_align import backends, installing
from mlx_align.config import BackendConfig
from mlx_align.engine.exporting.evidence import PolicyReader, computed_in, exactly
from mlx_align.errors import UsageError
from mlx_align.export import llama
from mlx_align.export.base import Base
from mlx_align.export.comparing import coarser
from mlx_align.export.evidence import Reader
from mlx_align.export.gguf import convert
from mlx_align.export.provenance import Provenance
from mlx_align.rope_names import older_names_of, turns_by_length

SMALL = 1_000_000_000
"""Bases with fewer parameters are written in float32 to try an adapter on, larger ones in float16."""

NEEDS = {
    "mlx": (("mlx", "mlx_lm"), "mlx-lm", "cpu"),
    "torch": (("torch", "transformers"), "transformers with torch", "torch"),
    "peft": (("torch", "transformers", "peft"), "peft", "torch"),
}
"""Loader -> the modules it is made of, its name for a person, and the extra that brings it."""

OTHERWISE = (
    "mlx-lm by itself reads the positions otherwise than they were trained with: the config.json has them as "
    "rope_parameters, in the words of transformers 5. `mlx-align serve` and `mlx-align generate` know these "
    "words; for other programs export the whole model with --to mlx-fused."
)
MAYBE = (
    "The config.json has the positions as rope_parameters, in the words of transformers 5, which mlx-lm by "
    "itself may read otherwise than they were trained with; where mlx-lm is installed, `mlx-align verify` "
    "tells."
)
BY_LENGTH = (
    "mlx-lm by itself, and so `mlx-align serve`, turns short texts, too, by this model's factors for long "
    "ones (LongRoPE). A run goes by its longest row for all of them; `mlx-align generate` and `chat` by the "
    "length of each text; transformers (--to hf, peft) by the longest of a batch, though its Phi MoE keeps "
    "the factors for short ones; llama.cpp (--to gguf) by the size of its context."
)
BY_CONTEXT = (
    "llama.cpp turns all texts by this model's factors for long ones (LongRoPE) where its context is larger "
    "than {border} tokens, and by those for short ones where it is not, whatever their length. This was "
    "trained with those for {list} texts: give it (-c; Ollama's num_ctx) a context of {wanted}."
)
WANTED = {"short": "at most {border} tokens", "long": "more than {border} tokens"}
"""The context with which llama.cpp takes a list, by the list."""

ROOM = 64
"""Tokens that llama.cpp's context has beyond the longest beginning."""


@dataclass(frozen=True)
class Unread:
    """Why an export cannot be tried here, and what to do so that it can."""

    reason: str
    hint: str | None = None


@dataclass(frozen=True)
class Surroundings:
    """What an export is tried with.

    Attributes:
        provenance: of the export.
        base: the base model's folder, if it is at hand; adapters need it.
        base_gguf: a GGUF of the base for an adapter in GGUF.
        device: where MLX computes: "auto" or "cpu".
    """

    provenance: Provenance
    base: Path | None = None
    base_gguf: Path | None = None
    device: str = "auto"


def obstacle(loaders: Sequence[str], worn: bool, around: Surroundings) -> str | Unread:
    """The first of the loaders that is installed and has what it needs, or why there is none.

    Args:
        loaders: "mlx", "torch", "peft" or "llama", the best first.
        worn: whether the export is an adapter, which needs its base.
        around: what is at hand.
    """
    missing = [found for loader in loaders if (found := _missing(loader)) is not None]
    there = [loader for loader in loaders if _missing(loader) is None]
    if not there:
        return missing[0]
    if worn and around.base is None and not (there[0] == "llama" and around.base_gguf):
        return Unread("the base model is not at hand", f"Name it with --base: '{around.provenance.base}'.")
    if there[0] == "peft" and around.base is not None and Base.open(around.base).quantised:
        return Unread("transformers cannot read a base that MLX quantised", "Use --to mlx, or --to hf.")
    return there[0]


def otherwise(loaders: Sequence[str], worn: bool, model: Path, around: Surroundings) -> Iterator[str]:
    """What to know of an export that the program it is for may read otherwise than it was trained.

    Args:
        loaders: of the export.
        worn: whether it is an adapter, which is read with its base.
        model: the export: a folder or a file.
        around: what is at hand.
    """
    read = around.provenance.positions
    if loaders[0] == "llama" and read is not None:
        yield BY_CONTEXT.format(**read, wanted=WANTED[read["list"]].format(**read))
    folder = around.base if worn else model
    if "mlx" not in loaders or folder is None:
        return
    if loaders[0] == "mlx" and turns_by_length(folder):  # else it is for transformers
        yield BY_LENGTH
    if older_names_of(folder):
        if _missing("mlx") is not None:
            yield MAYBE
        elif not backends.mlx_reads_alike(folder):
            yield OTHERWISE


def _missing(loader: str) -> Unread | None:
    if loader == "llama":
        found = llama.available() is not None
        name, extra = "llama.cpp", "gguf"
    else:
        modules, name, extra = NEEDS[loader]
        found = all(find_spec(module) is not None for module in modules)
    hint = f"Install it with `{installing.command(extra)}`."
    return None if found else Unread(f"{name} is not installed", hint)


@contextmanager
def opened(
    loader: str, model: Path, worn: bool, around: Surroundings, longest: int
) -> Iterator[tuple[Reader, str]]:
    """A loader with the export in it, and the precision that it computes in.

    Args:
        loader: from `obstacle`.
        model: the export: a folder or a file.
        worn: whether it is an adapter for `around.base`.
        around: what is at hand.
        longest: tokens of the longest beginning that it will read.

    Raises:
        AlignError: the loader refuses the export.
    """
    base = around.base if worn else None
    if loader == "mlx":
        yield _by_mlx(model, base, around.device)
    elif loader == "llama":
        beside = model.parent if os.access(model.parent, os.W_OK) else None  # where there was room for it
        with tempfile.TemporaryDirectory(dir=beside, prefix=".base-") as scratch:
            weights, precision = _gguf_of(around, Path(scratch)) if worn else (model, "f32")
            context, adapter = longest + ROOM, model if worn else None
            with llama.LlamaReader(weights, adapter, context=context) as reader:
                yield reader, precision
    else:
        yield _by_torch(model, base)


def _by_mlx(model: Path, base: Path | None, device: str) -> tuple[Reader, str]:
    folder = base or model
    config = exactly(BackendConfig.model_validate({"name": "mlx", "device": device}), Base.open(folder))
    backend = backends.create(config)
    policy = backend.load_for_generation(folder, None if base is None else model)
    precision = computed_in(config, backend.device, Base.open(folder))
    return PolicyReader(f"mlx-lm {version('mlx-lm')}", policy, folder), precision


def _by_torch(model: Path, base: Path | None) -> tuple[Reader, str]:
    """transformers, in float32 where there is room for it."""
    opened_base = Base.open(base or model)
    config = exactly(BackendConfig(name="torch", device="cpu", dtype="bfloat16"), opened_base)
    reader = backends.torch_reader(base or model, None if base is None else model, config.dtype)
    return reader, computed_in(config, "torch:cpu", opened_base)


def _gguf_of(around: Surroundings, scratch: Path) -> tuple[Path, str]:
    """A GGUF of the base and its precision: the one that is at hand, or one written for this."""
    if around.base_gguf is not None:
        return around.base_gguf, precision_of_gguf(around.base_gguf)
    if around.base is None:
        raise UsageError("the base model is not at hand", hint="Name it with --base, or --base-gguf.")
    base = Base.open(around.base)
    precision = _tried_in(base)
    file = scratch / "base.gguf"
    convert.write(file, base, None, around.provenance, precision)
    return file, precision


def _tried_in(base: Base) -> str:
    return "f32" if base.parameters < SMALL else "f16"


def base_bytes(base: Base) -> int:
    """What a GGUF of the base takes that is written to try an adapter on."""
    return base.parameters * (4 if _tried_in(base) == "f32" else 2)


def precision_of_gguf(file: Path) -> str:
    """The coarsest type of a GGUF's matrices: "f16", "q4_k"."""
    from gguf import GGUFReader

    types = {tensor.tensor_type.name.lower() for tensor in GGUFReader(file).tensors if len(tensor.shape) > 1}
    return coarser("f32", *types)


def precision_of_folder(base: Base) -> str:
    """The coarsest dtype of a folder's matrices, of those that are not quantised: "bf16"."""
    dtypes = {
        base.dtype(name).lower()
        for name, tensor in base.tensors.items()
        if len(tensor.shape) > 1
        and not base.is_part(name)
        and base.quantisation(name[: -len(".weight")]) is None
    }
    return coarser("f32", *dtypes)
