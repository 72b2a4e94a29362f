"""What the planner must know of a model, from its config.json and the headers of its weights' files.

Nothing is loaded: a safetensors file begins with the names, types and shapes of all its arrays. What follows
them is not looked at, and need not be there.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mlx_align.config_defaults import defaults
from mlx_align.errors import DataError, UsageError
from mlx_align.weights import weight_files

BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1},
}
FLOATING = ("F64", "F32", "F16", "BF16")
IN_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+)\.weight$")
EXPERT = re.compile(r"\.experts\.\d+\.")
SENSES = re.compile(r"(?:^|\.)(?:vision_|visual\.|audio_|embed_(?:vision|audio)\.|multi_modal_projector\.)")
"""In the names of what a model sees and hears with, which mlx-lm does not load."""
HEADER_LIMIT = 100 << 20
"""The format's own: no header is longer."""


@dataclass(frozen=True)
class Stored:
    """One array in a weights' file."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether a backend may convert it; packed weights are integers and stay."""
        return self.dtype in FLOATING

    @property
    def width(self) -> int:
        """Bytes of one number."""
        return BYTES[self.dtype]


@dataclass(frozen=True)
class Linear:
    """One linear module of a layer, or the same module of all its experts.

    Attributes:
        layer: the layer's number.
        name: relative to the layer: "self_attn.q_proj".
        inputs, outputs: its widths, unpacked.
        copies: how many experts have it; 1 where there are none.
    """

    layer: int
    name: str
    inputs: int
    outputs: int
    copies: int = 1


@dataclass(frozen=True)
class ModelFacts:
    """A decoder-only transformer as the planner sees it.

    Attributes:
        kind: config.json's model_type.
        stored: every array that is loaded.
        linears: the modules an adapter can go on.
        layers: L.
        hidden: d, the width of the residual stream.
        wide: the width between the MLP's two products; of the chosen experts together.
        chosen: experts a token goes through; 0 where there are none.
        heads, key_heads, head_dim: of the attention.
        vocabulary: V.
        gate: "silu" or "gelu", the MLP's activation.
        norms: norms of the residual's width in a layer.
        query_norms: whether queries and keys are normalised.
        capped_scores, capped_logits: whether they go through cap * tanh(x / cap).
        quantised: whether the linear modules are packed.
    """

    kind: str
    stored: tuple[Stored, ...]
    linears: tuple[Linear, ...]
    layers: int
    hidden: int
    wide: int
    chosen: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    gate: str
    norms: int
    query_norms: bool
    capped_scores: bool
    capped_logits: bool
    quantised: bool

    def weight_bytes(self, float_bytes: int | None) -> int:
        """Bytes of all weights, with floating ones at this width; None: as they are stored."""
        return sum(
            array.size * (float_bytes if float_bytes and array.floating else array.width)
            for array in self.stored
        )

    @property
    def float_bytes(self) -> int:
        """The width that most floating numbers are stored at."""
        widths: Counter[int] = Counter()
        for array in self.stored:
            if array.floating:
                widths[array.width] += array.size
        return widths.most_common(1)[0][0] if widths else 2


def read_facts(folder: Path) -> ModelFacts:
    """The facts about a model's folder.

    Raises:
        UsageError: a file cannot be read, or does not say what it must.
    """
    config = _config(folder)
    arrays: dict[str, Stored] = {}
    try:
        files = weight_files(folder)
    except DataError as error:
        raise UsageError(error.message, where=error.where) from None
    for path in files:
        arrays.update((name, array) for name, array in _header(path).items() if not SENSES.search(name))
    if config.get("tie_word_embeddings", False):
        arrays.pop("lm_head.weight", None)
    try:
        return _facts(config, arrays)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(
            f"the memory it needs cannot be planned: config.json says nothing usable about {error}",
            where=str(folder),
            hint="It must be a decoder-only text model in the Hugging Face layout.",
        ) from None


def _facts(config: Mapping[str, Any], arrays: Mapping[str, Stored]) -> ModelFacts:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    chosen = int(config.get("num_experts_per_tok") or 0)
    names = list(arrays)
    return ModelFacts(
        kind=str(config.get("model_type", "")),
        stored=tuple(arrays.values()),
        linears=tuple(_linears(arrays, config.get("quantization") or {})),
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        wide=_wide(config, chosen),
        chosen=chosen,
        heads=heads,
        key_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        vocabulary=int(config["vocab_size"]),
        gate="gelu" if "gelu" in _activation(config) else "silu",
        norms=4 if any("pre_feedforward_layernorm" in name for name in names) else 2,
        query_norms=any(name.endswith("q_norm.weight") for name in names),
        capped_scores=bool(config.get("attn_logit_softcapping")),
        capped_logits=bool(config.get("final_logit_softcapping")),
        quantised=any(name.endswith(".scales") for name in names),
    )


def _activation(config: Mapping[str, Any]) -> str:
    named = config.get("hidden_activation") or config.get("hidden_act")
    usual = "gelu" if str(config.get("model_type", "")).startswith("gemma") else "silu"
    return str(named or usual)


def _wide(config: Mapping[str, Any], chosen: int) -> int:
    if not chosen:
        return int(config["intermediate_size"])
    own = int(config.get("moe_intermediate_size") or config["intermediate_size"])
    return chosen * own + int(config.get("shared_expert_intermediate_size") or 0)


def _linears(arrays: Mapping[str, Stored], quantization: Mapping[str, Any]) -> list[Linear]:
    found: dict[tuple[int, str], Linear] = {}
    for name, array in arrays.items():
        match = IN_LAYER.search(name)
        if match is None or len(array.shape) not in (2, 3):
            continue
        layer, module = int(match[1]), match[2]
        expert = EXPERT.search(f".{module}.") is not None
        module = EXPERT.sub(".experts.", f".{module}.").strip(".")
        *copies, outputs, inputs = array.shape
        if scales := arrays.get(name.removesuffix(".weight") + ".scales"):
            inputs = scales.shape[-1] * _group(name, quantization)
        known = found.get((layer, module))
        count = (known.copies if known else 0) + 1 if expert else prod(copies)
        found[layer, module] = Linear(layer, module, inputs, outputs, count)
    return list(found.values())


def _group(name: str, quantization: Mapping[str, Any]) -> int:
    """Inputs that share a scale; a module may have its own entry."""
    own = quantization.get(name.removesuffix(".weight"))
    return int((own if isinstance(own, Mapping) else quantization).get("group_size", 64))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"config.json cannot be read: {error}", where=str(path)) from None
    if not isinstance(config, dict):
        raise UsageError("config.json is not a table of settings", where=str(path))
    text = config.get("text_config")  # of a model that also sees
    said = {**config, **text} if isinstance(text, dict) else config
    return {**defaults(config), **{key: value for key, value in said.items() if value is not None}}


def _header(path: Path) -> dict[str, Stored]:
    """The arrays of a safetensors file: eight bytes with the header's length, then the header as JSON."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > HEADER_LIMIT:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        return {
            name: Stored(entry["dtype"], tuple(map(int, entry["shape"])))
            for name, entry in header.items()
            if name != "__metadata__" and entry["dtype"] in BYTES
        }
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the weights cannot be read: {error}", where=str(path)) from None
