"""What the tests of exports share: random adapters, and the answers of loaders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_align.export import adapter as adapters
from mlx_align.export import places
from mlx_align.export.adapter import Adapter, Module
from mlx_align.export.base import Base

IDS = [[5, 900, 17, 333, 2, 64, 700, 41, 8, 1000, 77, 12], [900, 3, 3, 512, 40, 9, 1, 2, 650, 31, 8, 8]]


def matrices(base: Base, pattern: str = "") -> list[str]:
    """The paths of all linear modules of a base whose names have the pattern, in mlx-lm's words."""
    names = {
        (stacked[0] if (stacked := places.stacked_name(name)) else name.removesuffix(".weight"))
        for name, tensor in base.tensors.items()
        if ".layers." in name and name.endswith(".weight") and len(tensor.shape) > 1
    }
    return sorted(name for name in names if re.search(pattern, name))


def adapter_on(base: Base, names: Iterable[str], *, dora: bool = False, rank: int = 4) -> Adapter:
    """A random adapter that moves the answers well."""
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.15, shape).astype(np.float32)

    modules = {}
    for name in sorted(names):
        *lead, rows, columns = base.shape(name)
        embedding = name.endswith("embed_tokens")
        a, b = (rows, columns) if embedding else (columns, rows)
        magnitude = None
        if dora:
            lengths = np.linalg.norm(base.weight(name), axis=-1)
            magnitude = (lengths * rng.uniform(0.7, 1.3, rows)).astype(np.float32)
        modules[name] = Module(numbers(*lead, rank, a), numbers(*lead, b, rank), magnitude, embedding)
    return Adapter(modules, 2.0, 0.0, adapters.describe(modules, base.layers, 2.0, 0.0))


def logps_by_mlx_lm(folder: Path, adapter: Adapter | None = None, work: Path | None = None) -> np.ndarray:
    """Log-probabilities (rows, ids, vocabulary) by mlx-lm, of the model or of it with an adapter."""
    from mlx_lm.utils import load_adapters, load_model

    model, _ = load_model(folder)
    if adapter is not None and work is not None:
        work.mkdir()
        adapters.write(work, adapter)
        model = load_adapters(model, str(work))
        model.eval()
    logits = model(mx.array(IDS)).astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def logps_by_transformers(folder: Path) -> np.ndarray:
    """The same by transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits.log_softmax(-1).numpy()
