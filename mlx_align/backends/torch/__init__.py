"""The torch backend: transformers models with peft adapters, on a CPU, an NVIDIA GPU or Apple's MPS.

The one place that imports torch and peft. It trains what the MLX backend trains, from the same first
numbers and by the same rules, so that a run can change over and so that either can be checked by the other.
"""

from __future__ import annotations

from mlx_align import installing
from mlx_align.errors import UsageError

try:
    import peft  # noqa: F401
    import torch  # noqa: F401
except ImportError as error:
    raise UsageError(
        f"the torch backend cannot be loaded: {error}",
        where="backend.name",
        hint=f"Install it with `{installing.command('torch')}`, or use backend.name=mlx.",
    ) from None

from mlx_align.backends.torch.backend import TorchBackend, create

__all__ = ["TorchBackend", "create"]
