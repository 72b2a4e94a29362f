"""A LoRA as llama.cpp loads it beside a model: `llama-cli -m base.gguf --lora adapter.gguf`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import UsageError
from mlx_align.export import provenance as provenances
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base
from mlx_align.export.gguf.names import Names, architecture
from mlx_align.export.gguf.permute import permuted, rotated_heads
from mlx_align.export.provenance import Provenance

DTYPES = {"f32": np.float32, "f16": np.float16}


def write(file: Path, adapter: Adapter, base: Base, provenance: Provenance, dtype: str = "f32") -> list[str]:
    """Write a GGUF adapter.

    llama.cpp adds alpha / rank * B A, where the rank is each tensor's own and alpha is one for the file.

    Args:
        file: the new file.
        adapter: a LoRA; its modules are in the base, in the same shapes.
        base: the model that it was trained on; only its configuration is read.
        provenance: goes into the key "mlx_align.provenance".
        dtype: of A and B, "f32" or "f16".

    Returns:
        Notes: what a person should know of this file, a sentence each.

    Raises:
        UsageError: llama.cpp has no such adapters: DoRA, a tied embedding, an unknown architecture.
    """
    import gguf

    _check(adapter, base, dtype)
    names = Names(architecture(base.architecture), base.layers)
    rank = max(module.rank for module in adapter.modules.values())
    writer = gguf.GGUFWriter(file, names.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.scale * rank)
    writer.add_name(f"{provenance.run} on {provenance.base}")
    writer.add_string(provenances.GGUF_KEY, provenance.json())
    for path, module in adapter.modules.items():
        heads = rotated_heads(path, names.architecture, base.heads, base.kv_heads)
        for part, array in _parts(module, rank, heads).items():
            values = np.ascontiguousarray(array, dtype=DTYPES[dtype])
            writer.add_tensor(f"{names.of(path)}.weight.{part}", values)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return []


def _parts(module: Module, rank: int, heads: int | None) -> dict[str, NDArray[np.float32]]:
    """A and B as GGUF has them, so that alpha / the module's own rank gives the adapter's scale.

    Returns:
        lora_a (r, in) and lora_b (out, r), either with the experts before it; of an embedding (tokens, r) and
        (width, r).
    """
    a = module.a.T if module.embedding else module.a
    b = module.b * np.float32(module.rank / rank)
    return {"lora_a": a, "lora_b": permuted(b, heads)}


def _check(adapter: Adapter, base: Base, dtype: str) -> None:
    """See that llama.cpp applies what the adapter does."""
    merge = "Merge it into the model instead: `--to gguf`."
    if dtype not in DTYPES:
        raise UsageError(
            f"a GGUF adapter cannot be written as '{dtype}'", hint=f"Choose {' or '.join(DTYPES)}."
        )
    if not adapter.modules:
        raise UsageError("the adapter changes nothing: it has no modules")
    if adapter.dora:
        raise UsageError("llama.cpp has no DoRA adapters: it would leave the magnitudes out", hint=merge)
    embedding = next((path for path, module in adapter.modules.items() if module.embedding), None)
    if embedding is not None and base.tied:
        raise UsageError(
            f"llama.cpp ends with an error on an adapter for '{embedding}' where it is the output head too",
            hint=merge,
        )
