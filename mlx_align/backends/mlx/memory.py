"""A device's memory: how much there is, and how many freed buffers MLX may keep of it for reuse.

What holds for a GPU follows from arithmetic and from MLX's source; it was not measured on Metal. MLX gives
kept buffers back by itself, the oldest first, before it allocates more than its memory limit. So they can be
in the way of other programs only, and for those there is the share below. What is given back earlier has to
be allocated again, and of a step's activations that is gigabytes.
"""

from __future__ import annotations

import os

import mlx.core as mx

from mlx_align.backends.base import MemoryUse

CACHE_SHARE = 1 / 8
"""Of the device's memory, for buffers kept; without a limit they can grow to all of it."""
NEAR = 0.8
"""A share of the device's memory that comes near to all of it: what a plan calls tight."""
CPU_CACHE, CPU_CACHED = 2 << 30, 1 << 30
"""On a CPU, whose memory is everyone's: buffers kept at the most, and how many a change of shapes leaves."""


def memory_of(device: mx.Device) -> int:
    """Bytes that it can give: what Metal recommends as the limit, CUDA has, or, for a CPU, the machine."""
    info = {} if device == mx.cpu else mx.device_info(device)
    found = info.get("max_recommended_working_set_size") or info.get("total_memory")
    return int(found or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def gpu_memory() -> int:
    """Bytes of the GPU that MLX computes on; 0: it is a CPU."""
    device = mx.default_device()
    return 0 if device == mx.cpu else memory_of(device)


def cache_limit(limit: int, device: mx.Device) -> int:
    """Bytes of freed buffers that MLX may keep on a device with so much memory."""
    share = int(limit * CACHE_SHARE)
    return min(CPU_CACHE, share) if device == mx.cpu else share


def to_be_cleared(use: MemoryUse, cached: int, device: mx.Device) -> bool:
    """Whether buffers kept for other shapes are to be given back.

    Args:
        use: the memory in use.
        cached: bytes of the buffers kept.
        device: where.
    """
    return cached > CPU_CACHED if device == mx.cpu else use.active + cached > NEAR * use.limit
