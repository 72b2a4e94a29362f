"""Opening a file or a folder in the program that this machine has for it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from shutil import which


def opener() -> str | None:
    """The command that opens things here; None without a desktop, as over SSH."""
    if platform.system() == "Darwin":
        return which("open")
    desktop = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return which("xdg-open") if desktop else None


def open_here(path: Path) -> bool:
    """Open a file or a folder; False where there is nothing to open it with. It does not wait."""
    command = opener()
    if command is None:
        return False
    try:
        subprocess.Popen(
            [command, str(path.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True
