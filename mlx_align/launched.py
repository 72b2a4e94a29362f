"""Whether `mlx.launch` has started this program once on every machine, and which of the ranks this one is.

Read from the environment that the launcher leaves and the engine's process inherits: no framework is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """The rank of this process; None where it works alone, also as the only one that was launched."""
    number = environ.get("MLX_RANK", "")
    return int(number) if number.isdigit() and not _only_one(environ) else None


def _only_one(environ: Mapping[str, str]) -> bool:
    """For a single rank the launcher writes an empty hostfile, or a world of size 1."""
    with suppress(OSError):
        if "MLX_HOSTFILE" in environ and not Path(environ["MLX_HOSTFILE"]).read_text().strip():
            return True
    return environ.get("MLX_WORLD_SIZE") == "1"
