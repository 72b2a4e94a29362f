"""On Linux, a fast matrix multiplication for MLX's CPU device.

The `mlx-cpu` wheel is linked against netlib's reference BLAS, which reaches about 5 GFLOP/s in float32.
OpenBLAS exports the same symbols: loaded first and globally, the dynamic linker takes its versions, which
are about 35 times faster. This must happen before `mlx.core` is imported, so it is the first thing the
backend's package does; nothing else in the program may import mlx.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

ADVICE = (
    "Matrix products are about 35x faster with OpenBLAS: `apt-get install libopenblas0` (Debian, Ubuntu)."
)
WIDE = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


def preload_openblas() -> ctypes.CDLL | None:
    """Load OpenBLAS if this is Linux and it is installed."""
    if not sys.platform.startswith("linux"):
        return None
    for name, value in environment().items():
        os.environ.setdefault(name, value)
    try:
        return ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None


def environment() -> dict[str, str]:
    """What OpenBLAS must be told about this machine before it is loaded.

    OpenBLAS before 0.3.22 takes an AMD processor with AVX-512 for an older one, and uses half of its width.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    flags = next((line.split() for line in text.split("\n") if line.startswith("flags")), [])
    wide = "AuthenticAMD" in text and set(flags) >= WIDE
    return {"OPENBLAS_CORETYPE": "SkylakeX"} if wide else {}
