"""Starting a program inside, reading what it says, and ending it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Literal

from mlx_align.errors import SandboxMissingError
from mlx_align.rewards.base import RewardError
from mlx_align.rewards.sandbox import bubblewrap, seatbelt
from mlx_align.rewards.sandbox.base import Limits, Walls, interpreter

Role = Literal["program", "candidate", "examiner"]

_CHUNK = 64 * 1024
_ENTER = "import sys; sys.path.insert(0, sys.argv.pop(1)); from inside.main import main; main()"


@dataclass(frozen=True)
class Sandboxed:
    """A program inside.

    Attributes:
        process: the outermost process. When it is killed, so is everything inside.
        started: from where one byte can be read once the limits are set inside.
    """

    process: subprocess.Popen[bytes]
    started: int

    @property
    def streams(self) -> dict[str, IO[bytes]]:
        """Those of "stdout" and "stderr" that are pipes."""
        pipes = {"stdout": self.process.stdout, "stderr": self.process.stderr}
        return {name: pipe for name, pipe in pipes.items() if pipe is not None}

    def check_started(self, complaint: bytes) -> None:
        """Tell a sandbox that failed from a program that did: the program cannot take the byte back.

        Args:
            complaint: what was read from stderr.

        Raises:
            RewardError: the program was never reached.
        """
        with suppress(BlockingIOError):
            if os.read(self.started, 1):
                return
        reason = (
            complaint.decode(errors="replace").strip()[-300:] or "the machine may be short of time or memory"
        )
        raise RewardError(f"the sandbox did not start: {reason}")


def walls(limits: Limits) -> AbstractContextManager[Walls]:
    """The walls of this system.

    Raises:
        SandboxMissingError: when entered on a system without any.
    """
    makers = {"linux": bubblewrap.walls, "darwin": seatbelt.walls}
    if sys.platform not in makers:
        raise SandboxMissingError(
            f"there is no sandbox for {sys.platform}",
            hint="Use Linux or macOS, or leave the reward 'code' out.",
        )
    return makers[sys.platform](limits)


@contextmanager
def launch(
    role: Role,
    payload: str,
    limits: Limits,
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
) -> Iterator[Sandboxed]:
    """A program at work inside; when the block ends it is over, with all that it started.

    Args:
        role: what `inside` does with the payload.
        payload: a program's source, or an examiner's job.
        limits: what it may use.
        stdin: as for Popen.
        stdout: as for Popen.
        stderr: as for Popen.

    Raises:
        SandboxMissingError: there is no sandbox on this system.
    """
    with ExitStack() as stack:
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        os.set_blocking(reading, False)
        with os.fdopen(writing, "wb"), tempfile.TemporaryFile() as file, walls(limits) as around:
            file.write(payload.encode("utf-8", errors="surrogatepass"))
            file.seek(0)
            process = subprocess.Popen(
                _command(role, limits, around, payload=file.fileno(), started=writing),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(file.fileno(), writing, *around.fds),
                env={},
            )
        sandboxed = Sandboxed(process, reading)
        stack.callback(_end, sandboxed)
        yield sandboxed


def read_all(streams: Mapping[str, IO[bytes]], most: int, until: float) -> dict[str, bytes]:
    """What the streams say until all have ended or the time has come.

    Args:
        streams: name -> pipe.
        most: bytes to read of each. A stream with more is closed: reading a flood, even to throw it away,
            would cost this process as much as the one that makes it.
        until: a time of time.monotonic().
    """
    kept = {name: bytearray() for name in streams}
    with selectors.DefaultSelector() as selector:
        for name, stream in streams.items():
            selector.register(stream, selectors.EVENT_READ, name)
        while selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                stream = streams[key.data]
                chunk = os.read(key.fd, _CHUNK)
                kept[key.data] += chunk
                if not chunk or len(kept[key.data]) > most:
                    selector.unregister(stream)
                    stream.close()
    return {name: bytes(content[:most]) for name, content in kept.items()}


def _command(role: Role, limits: Limits, around: Walls, *, payload: int, started: int) -> list[str]:
    job = {
        "role": role,
        "payload": payload,
        "started": started,
        "uid": around.uid,
        "limits": limits.resources(),
    }
    # Nothing but Python's own library is importable: not the working folder, no site-packages.
    python = [str(interpreter()), "-P", "-s", "-S", "-B", "-c", _ENTER]
    return [*around.command, *python, around.folder, json.dumps(job)]


def _end(sandboxed: Sandboxed) -> None:
    sandboxed.process.kill()
    sandboxed.process.wait()
    for stream in sandboxed.streams.values():
        stream.close()
