"""The run's lock: held by the engine while it lives, so it is the truth about liveness.

The kernel frees a flock when the process ends, however it ends; there is no stale lock to clean up.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from mlx_align.errors import UsageError

READER_TRIES, READER_SECONDS = 200, 0.005
"""How often, and how far apart, an engine asks again for a lock that only readers hold."""


class Holder(NamedTuple):
    """An engine that holds a lock, or held it last.

    Args:
        pid: its process id, on its machine.
        host: that machine's name; "" where an earlier version wrote the lock.
    """

    pid: int
    host: str


class RunLock:
    """An exclusive lock on a run directory, as a context manager.

    Raises:
        UsageError: (on entering) another engine holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(descriptor):
            os.close(descriptor)
            raise UsageError(
                f"an engine is already working on the run '{self._path.parent.name}'",
                hint="Follow it with `mlx-align runs attach`, or stop it with `mlx-align runs stop`.",
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, os.fsencode(f"{os.getpid()} {platform.node()}\n"))
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> bool:
    """Take the lock exclusively; False if an engine has it.

    A reader that asks `is_held` has it shared for an instant. That is no engine: try again.
    """
    for _ in range(READER_TRIES):
        if _try(descriptor, fcntl.LOCK_EX):
            return True
        if not _try(descriptor, fcntl.LOCK_SH):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(READER_SECONDS)
    return False


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def holder(path: Path) -> Holder | None:
    """The engine that holds the lock, or None."""
    return last_holder(path) if is_held(path) else None


def last_holder(path: Path) -> Holder | None:
    """The engine that holds the lock or held it last, or None."""
    try:
        pid, _, host = os.fsdecode(path.read_bytes()).strip().partition(" ")
    except FileNotFoundError:
        return None
    return Holder(int(pid), host) if pid.isdecimal() else None
