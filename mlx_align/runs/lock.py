"""The run's lock: held by the engine while it lives, so it is the truth about liveness.

The kernel frees a flock when the process ends, however it ends; there is no stale lock to clean up.
"""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from mlx_align.errors import UsageError

READER_TRIES, READER_SECONDS = 200, 0.005
"""How often, and how far apart, an engine asks again for a lock that only readers hold."""
BOOT_ID, PROCESS_IDS = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
BOOT_COMMAND = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
"""What tells an id that is new whenever Linux or macOS starts. Containers on one Linux have it in common, but
number their processes apart."""


class Holder(NamedTuple):
    """An engine that holds a lock, or held it last.

    Args:
        pid: its process id, on its machine.
        host: that machine's name; "" where an earlier version wrote the lock.
        boot: what `this_boot` told there; "" where an earlier version wrote the lock, or the system has none.
    """

    pid: int
    host: str
    boot: str = ""

    def is_here(self) -> bool:
        """Whether it runs on this machine, so that its process id means it here."""
        # The name is no answer where there is a better one: on macOS it changes with the network.
        boot = this_boot() if self.boot else ""
        return self.boot == boot if boot else self.host == platform.node()


def this_boot() -> str:
    """What tells this machine, since it was started, from all others; "" where the system has no such thing.

    On macOS it starts a process.
    """
    try:
        if sys.platform == "darwin":
            return subprocess.check_output(BOOT_COMMAND, stdin=subprocess.DEVNULL, text=True).strip()
        return f"{BOOT_ID.read_text().strip()} {os.readlink(PROCESS_IDS)}"
    except (OSError, subprocess.CalledProcessError):
        return ""


class RunLock:
    """An exclusive lock on a run directory, as a context manager.

    Raises:
        UsageError: (on entering) another engine holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        words = f"{os.getpid()} {platform.node()}\n{this_boot()}\n"
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(descriptor):
            os.close(descriptor)
            raise UsageError(
                f"an engine is already working on the run '{self._path.parent.name}'",
                hint="Follow it with `mlx-align runs attach`, or stop it with `mlx-align runs stop`.",
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, os.fsencode(words))
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
        first, _, boot = os.fsdecode(path.read_bytes()).strip().partition("\n")
    except FileNotFoundError:
        return None
    pid, _, host = first.partition(" ")
    return Holder(int(pid), host, boot) if pid.isdecimal() else None
