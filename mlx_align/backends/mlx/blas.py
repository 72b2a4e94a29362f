"""On Linux, a fast matrix multiplication for MLX's CPU device.

The `mlx-cpu` wheel is linked against netlib's reference BLAS, which reaches about 5 GFLOP/s in float32.
OpenBLAS exports the same symbols: loaded first and globally, the dynamic linker takes its versions, which
are about 35 times faster. This must happen before `mlx.core` is imported, so it is the first thing the
backend's package does; nothing else in the program may import mlx.
"""

from __future__ import annotations

import ctypes
import sys

ADVICE = (
    "Matrix products are about 35x faster with OpenBLAS: `apt-get install libopenblas0` (Debian, Ubuntu)."
)


def preload_openblas() -> bool:
    """Load OpenBLAS if this is Linux and it is installed; True if it is in use."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
