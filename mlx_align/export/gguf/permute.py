"""The order of a query's or key's rows, in which GGUF differs from Hugging Face for Llama and its kin.

Hugging Face rotates the first half of a head against the second; llama.cpp's "llama" architecture rotates
neighbours. So within each head the rows (0 .. h/2-1, h/2 .. h-1) become (0, h/2, 1, h/2+1, ...). Other
architectures (Qwen, Gemma, Phi) rotate halves in llama.cpp too, and stay as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUERY, KEY = ".self_attn.q_proj", ".self_attn.k_proj"


def rotated_heads(module: str, architecture: str, heads: int, kv_heads: int) -> int | None:
    """How many heads' rows change their order in this module's output; None when no row does.

    Args:
        module: mlx-lm's module path, such as "model.layers.0.self_attn.q_proj".
        architecture: GGUF's name, such as "llama".
        heads: the model's query heads.
        kv_heads: its key heads.
    """
    if architecture != "llama":
        return None
    return heads if module.endswith(QUERY) else kv_heads if module.endswith(KEY) else None


def permuted(rows: NDArray[np.float32], heads: int | None) -> NDArray[np.float32]:
    """Bring the rows of a weight (out, in), an adapter's B (out, r) or a bias (out,) into GGUF's order.

    Args:
        rows: the first axis is the module's output; `out` is heads times an even number.
        heads: from `rotated_heads`; None leaves the rows as they are.
    """
    if heads is None:
        return rows
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)
