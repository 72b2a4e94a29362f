"""MLX arrays to numpy and back, by name."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from mlx_align.backends.base import State

Arrays = dict[str, mx.array]
"""MLX arrays by name."""


def to_numpy(array: mx.array) -> NDArray[Any]:
    """A copy on the host; bfloat16, which numpy lacks, becomes float32 without loss."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


def state_of(tree: Any, prefix: str) -> State:
    """The arrays of a nested tree as `prefix.path` -> numpy."""
    return {f"{prefix}.{name}": to_numpy(value) for name, value in tree_flatten(tree)}


def tree_of(state: State, prefix: str) -> Any:
    """The nested tree of MLX arrays under a prefix; None if there are none."""
    start = f"{prefix}."
    items = [(k.removeprefix(start), mx.array(v)) for k, v in state.items() if k.startswith(start)]
    return tree_unflatten(items) if items else None
