"""A model of two layers as a Hugging Face folder and as a GGUF, made of numpy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.provenance import Provenance

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, TOKENS = 256, 4, 2, 8, 64
Q_PROJ = "model.layers.1.self_attn.q_proj"
PROVENANCE = Provenance("a-run", "orpo", "owner/base", None, "0" * 64, "1" * 64, "2" * 64, 7, "")

SHAPES = {
    "model.embed_tokens": (TOKENS, HIDDEN),
    **{
        f"model.layers.{layer}.self_attn.{name}_proj": (heads * HEAD_DIM, HIDDEN)
        for layer in (0, 1)
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
    },
}


def base(folder: Path, model_type: str = "qwen2", tied: bool = True, seed: int = 0) -> Base:
    """A model with an embedding and attention projections, and no output head."""
    rng = np.random.default_rng(seed)
    weights = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    config = {
        "model_type": model_type,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "num_hidden_layers": 2,
        "vocab_size": TOKENS,
        "tie_word_embeddings": tied,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return Base.open(folder)


def adapter(names: tuple[str, ...] = (Q_PROJ,), rank: int = 2, **changes: Any) -> Adapter:
    """Random values on these modules; `changes` go into each module."""
    rng, modules = np.random.default_rng(1), {}
    for name in names:
        rows, columns = SHAPES[name][::-1] if changes.get("embedding") else SHAPES[name]
        a, b = rng.normal(size=(rank, columns)), rng.normal(size=(rows, rank))
        modules[name] = Module(a.astype(np.float32), b.astype(np.float32), **changes)
    return Adapter(modules, scale=3.0, dropout=0.0, facts={})


def arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a GGUF as gguf-py reads them: packed ones as bytes."""
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(file).tensors}


def value(file: Path, key: str) -> Any:
    """A key of a GGUF."""
    field = gguf.GGUFReader(file).get_field(key)
    return None if field is None else field.contents()
