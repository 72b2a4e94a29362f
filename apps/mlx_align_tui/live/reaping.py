"""Ends a program that does not end though it was asked to: `python -m mlx_align_tui.live.reaping` with its
process id, the seconds that it has, and its folder if it has one.

It is a process of its own, because whoever asked may be gone before the time is up. It needs nothing but
Python, so that it is there at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

POLL_SECONDS = 0.05


def begin(process: int, seconds: float, folder: Path | None = None) -> subprocess.Popen[bytes]:
    """Have it seen to that a program ends, even where this one ends first; see `reap`."""
    where = [] if folder is None else [str(folder.absolute())]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mlx_align_tui.live.reaping", str(process), str(seconds), *where],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def dismiss(reaper: subprocess.Popen[bytes]) -> None:
    """The program has ended, and nobody needs to see to that any more."""
    reaper.kill()
    reaper.wait()


def reap(process: int, seconds: float, folder: Path | None = None) -> None:
    """Wait for a program to end; one that does not is killed with all that it has started.

    Args:
        process: its id, and that of its group.
        seconds: how long it may go on.
        folder: where it writes; of a program that had to be killed nothing is left there. None: that stays.
    """
    if not _ends(process, seconds):
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        _ends(process, seconds)
        if folder is not None:
            clear(folder, process)


def _ends(process: int, seconds: float) -> bool:
    """Whether a process ends within this time."""
    end = time.monotonic() + seconds
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_SECONDS)


def clear(folder: Path, process: int) -> None:
    """Remove what a killed export was writing, but not an older export that it had put aside."""
    for item in folder.glob(f".*-{process}-*"):
        if not item.name.endswith("-old"):
            shutil.rmtree(item, ignore_errors=True)


if __name__ == "__main__":
    reap(int(sys.argv[1]), float(sys.argv[2]), *map(Path, sys.argv[3:]))
