"""What the MLX arms share. Importing this module preloads OpenBLAS, so it comes before anything of MLX."""

from __future__ import annotations

import ctypes
import sys

if sys.platform == "linux":
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

LEAVES = ("lora_a", "lora_b")


class MlxMemory:
    """MLX's own account. Some trainers reset the peak every step, so what they reset is remembered."""

    def start(self) -> None:
        """What is active now is the base."""
        mx.clear_cache()
        self._base, self._highest = mx.get_active_memory(), 0
        self._reset = mx.reset_peak_memory
        self._reset()
        mx.reset_peak_memory = self._remember

    def over_base(self) -> int:
        """Peak less base."""
        mx.reset_peak_memory = self._reset
        return max(self._highest, mx.get_peak_memory()) - self._base

    def _remember(self) -> None:
        self._highest = max(self._highest, mx.get_peak_memory())
        self._reset()


def load_adapter(model, arrays: dict[str, np.ndarray]) -> None:
    """Give an adapter its first values."""
    if set(adapter_of(model)) != set(arrays):
        raise ValueError("the peer's adapter has other arrays than the workload's")
    model.load_weights([(name, mx.array(value)) for name, value in arrays.items()], strict=False)
    mx.eval(model.parameters())


def adapter_of(model) -> dict[str, np.ndarray]:
    """The adapter's arrays by mlx-lm's names; anything else that is trained is an error."""
    trained = dict(tree_flatten(model.trainable_parameters()))
    if strange := [name for name in trained if name.rsplit(".", 1)[-1] not in LEAVES]:
        raise ValueError(f"the peer would also train {strange[0]}")
    return {name: np.array(value) for name, value in trained.items()}
