"""What every kind of sandbox works with: the limits, and the walls that it puts around a process."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
"""The code that runs inside."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_seconds: processor time. The limit that decides: a busy machine does not change a reward.
        wall_seconds: time by the clock, for programs that wait or hang; generous for the same reason.
        memory: bytes of address space.
        threads: threads at a time; other processes there are none.
        scratch: bytes in /tmp, and the largest file.
        open_files: file descriptors.
        output: bytes read of stdout and of stderr each; a program that writes more finds its stream closed.
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 30.0
    memory: int = 512 * 2**20
    threads: int = 32
    scratch: int = 16 * 2**20
    open_files: int = 64
    output: int = 64 * 2**10

    def resources(self) -> dict[str, int]:
        """The kernel's limits for a process, by their names in `resource` without "RLIMIT_"."""
        limits = {
            "CPU": math.ceil(self.cpu_seconds),
            "FSIZE": self.scratch,
            "NOFILE": self.open_files,
            "CORE": 0,
        }
        if sys.platform == "darwin":  # there AS is not honoured, and NPROC counts all that the user runs
            return limits
        return {**limits, "AS": self.memory, "NPROC": self.threads}


@dataclass(frozen=True)
class Walls:
    """How to start a process inside.

    Attributes:
        command: what to put before the command.
        folder: where the folder that holds `inside` is seen from inside.
        uid: the user and group that the inside must become by itself; None: it is done already.
        fds: file descriptors that the command reads.
    """

    command: list[str]
    folder: str
    uid: int | None = None
    fds: tuple[int, ...] = field(default=())


def interpreter() -> Path:
    """The Python that runs inside: this one, without its virtual environment."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def library() -> Path:
    """Where that Python keeps its standard library and its own shared libraries."""
    return Path(sys.base_prefix) / "lib"
