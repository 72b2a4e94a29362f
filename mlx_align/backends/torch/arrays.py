"""Torch tensors to numpy and back, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlx_align.backends.base import State
from mlx_align.batch import Batch


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy on the host; bfloat16, which numpy lacks, becomes float32 without loss."""
    host = tensor.detach().to("cpu")
    # A copy even on a CPU, where numpy() would be a window onto memory that training goes on writing to.
    return np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())


def state_of(tensors: Mapping[str, torch.Tensor], prefix: str) -> State:
    """The tensors as `prefix.name` -> numpy."""
    return {f"{prefix}.{name}": to_numpy(value) for name, value in tensors.items()}


def under(state: State, prefix: str) -> State:
    """The arrays under a prefix, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


def batch_on(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; indices become int64, which is what torch gathers by."""

    def convert(array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.tensor(array, device=device)
        return tensor if tensor.is_floating_point() else tensor.long()

    return batch.map(convert)
