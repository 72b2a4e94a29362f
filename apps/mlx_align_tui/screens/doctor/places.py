"""Where this program keeps things, and how large they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlx_align.paths import typed
from mlx_align.settings import cache_path, gather, resolve, user_config_path
from mlx_align_tui.settings import settings_path


@dataclass(frozen=True)
class Place:
    """A folder or a file, which need not be there."""

    name: str
    path: Path
    about: str


def places(root: Path) -> list[Place]:
    """All places.

    Args:
        root: the folder that holds the runs.

    Raises:
        ConfigError: the user's configuration cannot be used.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    config = resolve(gather(None, flags={"runs.dir": str(root)})).config
    return [
        Place("runs", typed(str(root)).resolve(), "configurations, logs, checkpoints, adapters and exports"),
        Place(
            "cache", cache_path(config).resolve(), "what later runs can use again; may be removed at any time"
        ),
        Place(
            "models", Path(HF_HUB_CACHE), "bases that were fetched from the hub, shared with other programs"
        ),
        Place("configuration", user_config_path(), "your own defaults for every run; need not be there"),
        Place("these settings", settings_path(), "theme, keys, how curves are looked at"),
    ]


def bytes_in(path: Path, ended: Callable[[], bool]) -> int | None:
    """Bytes in a file, or in all files below a folder; None where there is nothing, or once it is to end."""
    if not path.exists():
        return None
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        if ended():
            return None
        for name in files:
            try:
                facts = os.lstat(os.path.join(folder, name))
            except OSError:  # it has gone meanwhile
                continue
            total += facts.st_size
    return total
