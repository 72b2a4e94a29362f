"""Memory in use: the device's own count, or on a CPU the process's, where the system tells it."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

from mlx_align.backends.base import MemoryUse

STATM = Path("/proc/self/statm")


def memory_use(kind: str) -> MemoryUse:
    """Bytes in use, at the highest, and what there is, on cpu, cuda or mps."""
    if kind == "cuda":
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return MemoryUse(torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated(), int(total))
    peak = _peak_of_process()
    if kind == "mps":  # which keeps no peak of its own; unified memory makes the process's an honest one
        active = torch.mps.current_allocated_memory()
        return MemoryUse(active, max(active, peak), int(torch.mps.recommended_max_memory()))
    # Elsewhere, as on macOS, Python can only ask for the peak, which never falls: it is not what is in use.
    active = int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if STATM.exists() else 0
    return MemoryUse(active, max(active, peak), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _peak_of_process() -> int:
    """The largest resident set so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
