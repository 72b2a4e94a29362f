"""Paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_align.errors import ConfigError


def typed(text: str) -> Path:
    """The path that is meant: "~" is one's home, and "~name" that of another user.

    Where there is no such user it stays as it is: there is nothing at that path, and whoever looks says so.
    `Path.expanduser` raises RuntimeError instead.
    """
    return Path(os.path.expanduser(text))


def typed_new(text: str, where: str) -> Path:
    """The path that is meant, of what is to be made there.

    Args:
        text: as it was typed.
        where: the key or option that says it.

    Raises:
        ConfigError: it is in nobody's home: a folder that is called "~name" would be made here.
    """
    path = typed(text)
    if str(path).startswith("~"):
        raise ConfigError(
            f"nobody's home is known as '{path.parts[0]}'",
            where=f"{where} = {text}",
            hint="Give another place.",
        )
    return path
