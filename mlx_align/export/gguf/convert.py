"""A whole GGUF from a model in the Hugging Face layout, with an adapter merged into it if one is given.

It is written tensor by tensor: the largest of them, as float32, is all that is in memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import UsageError
from mlx_align.export import provenance as provenances
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.gguf import architectures, tokenizer
from mlx_align.export.gguf.names import Names, architecture
from mlx_align.export.gguf.permute import permuted, rotated_heads
from mlx_align.export.merging import merge
from mlx_align.export.provenance import Provenance

FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q5_1": 9}
"""The types that are written here -> the value of general.file_type."""

EMBEDDING, HEAD = "token_embd.weight", "output.weight"
COARSE = ("q4_0", "q5_1")
"""Types in which the embedding and the head would lose too much; they become q8_0."""

EXPERT = re.compile(r"(?P<block>.+)\.experts\.(?:\d+\.)?(?P<part>gate_up|gate|up|down)_proj(?:\.weight)?")
"""An expert's weight, alone or all of a layer in one tensor."""

LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class Part:
    """One tensor of the new file.

    Args:
        name: GGUF's name.
        source: mlx-lm's name of the parameter it is made of, such as "model.norm.weight".
        shape: (out, in), (experts, out, in) or (out,).
        type: one of `FILE_TYPES`.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    type: str

    @property
    def module(self) -> str:
        """The path of the module whose parameter it is."""
        return self.source.rpartition(".")[0]


def write(
    file: Path,
    base: Base,
    adapter: Adapter | None,
    provenance: Provenance,
    type: str = "f16",  # noqa: A002  (GGUF's word)
) -> list[str]:
    """Write a GGUF that llama.cpp loads: weights, tokenizer and chat template.

    Args:
        file: the new file.
        base: the model; a quantised one is dequantised.
        adapter: merged into the weights; None writes the base itself.
        provenance: goes into the key "mlx_align.provenance".
        type: of matrices, one of `FILE_TYPES`; norms, biases and routers stay float32.

    Returns:
        Notes: what a person should know of this file, a sentence each.

    Raises:
        UsageError: the type is unknown, llama.cpp has no such model or tokenizer, or a number does not fit.
        DataError: a file of the model is missing or damaged.
    """
    if type not in FILE_TYPES:
        hint = f"Choose {', '.join(FILE_TYPES)}; K-quants are made by llama.cpp."
        raise UsageError(f"the type '{type}' is not written here", hint=hint)
    family, names = architectures.family(base), Names(architecture(base.architecture), base.layers)
    parts = [_part(source, base, names, type) for source in _sources(base)]
    _check_complete(parts, adapter)
    vocabulary = tokenizer.read(base.folder, base.shape("model.embed_tokens")[0])
    writer = _header(file, base, provenance, type, vocabulary)
    factors = family.tensors(base)
    for name, values in factors.items():
        _announce(writer, name, values.shape, "f32")
    for part in parts:
        _announce(writer, part.name, part.shape, part.type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in factors.values():
            writer.write_tensor_data(values)
        for part in parts:
            writer.write_tensor_data(_encoded(_values(part, base, adapter, family.norm_shift), part))
    finally:
        writer.close()
    return [*vocabulary.notes, *_notes(parts, type)]


def _sources(base: Base) -> Iterator[str]:
    """Every parameter of the model by mlx-lm's name, once."""
    seen: set[str] = set()
    for name in base.tensors:
        unused = name.endswith("rotary_emb.inv_freq") or (base.tied and name.startswith("lm_head."))
        if base.is_part(name) or unused:
            continue
        for source in _parameters(name):
            if source not in seen:
                seen.add(source)
                yield source


def _parameters(name: str) -> list[str]:
    """mlx-lm's name of a tensor; a layer's experts are one parameter there, and gate and up are two."""
    match = EXPERT.fullmatch(name)
    if match is None:
        return [name]
    parts = ("gate", "up") if match["part"] == "gate_up" else (match["part"],)
    return [f"{match['block']}.switch_mlp.{part}_proj.weight" for part in parts]


def _part(source: str, base: Base, names: Names, wanted: str) -> Part:
    name = names.of(source)
    tensor = base.tensors.get(source)
    if tensor is not None and len(tensor.shape) == 1:
        return Part(name, source, tensor.shape, "f32")
    shape = base.shape(source.rpartition(".")[0])
    if architectures.ROUTER in name:
        return Part(name, source, shape, "f32")
    chosen = "q8_0" if name in (EMBEDDING, HEAD) and wanted in COARSE else wanted
    if chosen.startswith("q") and shape[-1] % 32:
        chosen = "f16"
    return Part(name, source, shape, chosen)


def _check_complete(parts: list[Part], adapter: Adapter | None) -> None:
    """See that no module of the adapter is left out."""
    missing = sorted(set(adapter.modules if adapter else ()) - {part.module for part in parts})
    if missing:
        raise UsageError(
            f"the base model has no weight for the adapter's module '{missing[0]}'",
            where=missing[0],
            hint="Give the base that the adapter was trained on.",
        )


def _header(
    file: Path, base: Base, provenance: Provenance, wanted: str, vocabulary: tokenizer.Vocabulary
) -> Any:
    """A gguf.GGUFWriter with every key, before its first tensor."""
    import gguf

    writer = gguf.GGUFWriter(file, architecture(base.architecture))
    writer.add_type("model")
    writer.add_name(_name(provenance.base, vocabulary.strips))
    writer.add_file_type(FILE_TYPES[wanted])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string(provenances.GGUF_KEY, provenance.json())
    for key, value in architectures.facts(base, len(vocabulary.tokens)).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[value.__class__]
        add(f"{writer.arch}.{key}", value)
    vocabulary.put(writer)
    return writer


def _name(base: str, strips: bool) -> str:
    """The model's name; by "phi-3" in it llama.cpp knows special tokens that swallow the space after them."""
    if re.search("phi-?3", base, re.IGNORECASE):
        return base if strips else re.sub("phi-?3", "phi 3", base, flags=re.IGNORECASE)
    return f"{base} (phi-3)" if strips else base


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: str) -> None:
    import gguf

    number = gguf.GGMLQuantizationType[kind.upper()]
    block, size = gguf.GGML_QUANT_SIZES[number]
    writer.add_tensor_info(name, shape, np.dtype("f4"), math.prod(shape) // block * size, raw_dtype=number)


def _values(part: Part, base: Base, adapter: Adapter | None, shift: float) -> NDArray[np.float32]:
    """A part's numbers, merged and in GGUF's order."""
    if len(part.shape) == 1:
        values = base.tensors[part.source].float32()
        values = values + np.float32(shift) if part.source.endswith("norm.weight") else values
    else:
        values = base.weight(part.module)
        if adapter is not None and part.module in adapter.modules:
            merge(values, adapter.modules[part.module], adapter.scale)
    heads = rotated_heads(part.module, architecture(base.architecture), base.heads, base.kv_heads)
    return permuted(values, heads)


def _encoded(values: NDArray[np.float32], part: Part) -> NDArray[Any]:
    import gguf

    largest = max(values.max(), -values.min())  # of absolute values, without a copy of them all
    if part.type in ("f16", "q8_0", "q4_0", "q5_1") and not largest <= LARGEST_F16:
        raise UsageError(
            f"'{part.source}' has numbers that {part.type} cannot hold",
            hint="Choose bf16 or f32; bf16 takes as much space as f16.",
        )
    kind = gguf.GGMLQuantizationType[part.type.upper()]
    encoded: NDArray[Any] = gguf.quants.quantize(np.ascontiguousarray(values), kind)
    return encoded


def _notes(parts: list[Part], wanted: str) -> list[str]:
    finer = [part.name for part in parts if part.type == "q8_0" != wanted]
    wider = [part.name for part in parts if part.type == "f16" != wanted]
    notes = []
    if finer:
        notes.append(f"{' and '.join(finer)} became q8_0: {wanted} would cost too much there")
    if wider:
        notes.append(
            f"{len(wider)} tensors became f16, since their rows are no multiple of 32: {wider[0]}, ..."
        )
    return notes
