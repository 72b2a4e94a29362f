"""An adapter's sum with the weights it was trained beside, in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlx_align.export.adapter import Module

BLOCK = 1 << 20
"""Numbers of a delta that exist at once."""


def merged(weight: NDArray[np.float32], module: Module, scale: float) -> NDArray[np.float32]:
    """The weight that answers as the adapted module does.

    LoRA: W + scale * b @ a. DoRA: the same, each row then brought to the length that `magnitude` has for it.

    Args:
        weight: (out, in), (E, out, in) for stacked experts, (tokens, width) for an embedding; left as it is.
        module: what the adapter does to it; `module.shape` is the weight's.
        scale: the adapter's.

    Returns:
        The same shape.
    """
    result = weight.copy()
    merge(result, module, scale)
    return result


def merge(weight: NDArray[np.float32], module: Module, scale: float) -> None:
    """`merged` in place, a few rows at a time."""
    if weight.ndim == 3:
        for index, matrix in enumerate(weight):
            merge(matrix, module.expert(index), scale)
        return
    rows_of, columns_of = (module.a.T, module.b.T) if module.embedding else (module.b, module.a)
    factor, step = np.float32(scale), max(1, BLOCK // weight.shape[1])
    for begin in range(0, len(weight), step):
        rows = slice(begin, begin + step)
        part = weight[rows]
        part += factor * (rows_of[rows] @ columns_of)
        if module.magnitude is not None:
            part *= (module.magnitude[rows] / np.linalg.norm(part, axis=1))[:, None]
