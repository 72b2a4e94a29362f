"""Paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path


def typed(text: str) -> Path:
    """The path that is meant: "~" is one's home, and "~name" that of another user.

    Where there is no such user it stays as it is: there is nothing at that path, and whoever looks says so.
    `Path.expanduser` raises RuntimeError instead.
    """
    return Path(os.path.expanduser(text))
