"""The MLX backend: Metal on Apple silicon, CUDA or the CPU on Linux.

The one place that imports mlx and mlx-lm, and therefore the one place that preloads OpenBLAS.
"""

from __future__ import annotations

from mlx_align import installing
from mlx_align.backends.mlx.blas import preload_openblas
from mlx_align.errors import UsageError

OPENBLAS = preload_openblas()

try:
    import mlx.core  # noqa: F401
except ImportError as error:
    raise UsageError(
        f"MLX cannot be loaded: {error}",
        hint=f"On Linux install it with `{installing.command('cpu')}` (or cuda12, cuda13); on a Mac with "
        "`pip install mlx`.",
    ) from None

from mlx_align.backends.mlx.backend import MlxBackend, create  # noqa: E402

__all__ = ["OPENBLAS", "MlxBackend", "create"]
