"""The machine of a measurement, in words."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": "CPU, float32; the MLX arms with OpenBLAS preloaded"
        if sys.platform == "linux"
        else "Metal",
    }


def _processor() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in text.split("\n"))}
    if "model name" not in facts:
        return platform.processor()
    # A virtual machine's name is often that of a whole line of processors.
    numbers = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return ", ".join([facts["model name"], *numbers])
