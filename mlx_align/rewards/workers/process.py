"""One life of a process that scores: its pipes, and never waiting longer than asked for.

What the function prints goes nowhere: requests and replies have pipes of their own, so a gigabyte on stdout
can neither break the protocol nor fill memory.

It runs as the same user, so what it can take is limited and no more than that. It is not given the engine's
environment and, on Linux, cannot read that or its memory under /proc either, unless it runs as root; its home
is an empty folder. It can still open every file of that user by its absolute path, look into the user's other
processes (the shell that the engine was started from), and use the network.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHILD = Path(__file__).with_name("child.py")
VARIABLES = ("PATH", "LANG")
"""What a scoring process sees of the environment, which may hold tokens and keys."""
PR_SET_DUMPABLE = 4
"""An option of Linux's prctl; see its manual."""

REPLY = 64 << 10
"""Longest reply, in bytes: a number or a message. More is not ours."""
GLANCE = 0.2
"""Seconds between looks at whether the process lives; a process that it started may hold its pipe open."""
GRACE = 1.0
"""Seconds for a process whose pipe has closed to end by itself, so that its exit code is known."""


class ChildError(Exception):
    """The process cannot be used any further; the message says why."""


class Child:
    """A process that has loaded one function.

    It ends with the engine, however busy it is. On Linux it ends with the thread that made it; elsewhere a
    call into C that keeps the interpreter's lock must be over first.

    Args:
        file: the Python file, absolute.
        function: its name there.
        memory: limit on the process's address space, in MiB; macOS does not keep it.
        seconds: limit on loading the file.

    Raises:
        ChildError: the process cannot be started, or the file not be loaded; nothing is left open.
    """

    def __init__(self, file: Path, function: str, *, memory: int, seconds: float) -> None:
        self._buffer = b""
        self._asked = 0
        _hide()
        with ExitStack() as stack:  # closes what is open where it cannot be used
            try:
                self._start([str(file), function], file.parent, memory, stack)
            except OSError as error:
                raise ChildError(f"its process could not be started: {error}") from None
            self._loaded(time.monotonic() + seconds, seconds)
            self._open = stack.pop_all()

    def _start(self, named: list[str], folder: Path, memory: int, stack: ExitStack) -> None:
        """Begin the process; the stack ends it and closes what belongs to it."""
        with ExitStack() as theirs:
            requests, self._requests = os.pipe()
            theirs.callback(os.close, requests)
            stack.callback(os.close, self._requests)
            self._replies, replies = os.pipe()
            theirs.callback(os.close, replies)
            stack.callback(os.close, self._replies)
            home = stack.enter_context(TemporaryDirectory(prefix="reward-home-", ignore_cleanup_errors=True))
            numbers = map(str, (requests, replies, memory, os.getpid()))
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(CHILD), *named, *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={name: os.environ[name] for name in VARIABLES if name in os.environ} | {"HOME": home},
                pass_fds=(requests, replies),
                start_new_session=True,  # to be ended together with all that it starts
            )
            stack.callback(self._end)
        for descriptor in (self._requests, self._replies):
            os.set_blocking(descriptor, False)

    def _loaded(self, deadline: float, seconds: float) -> None:
        try:
            greeting = self._read(deadline)
        except TimeoutError:
            raise ChildError(f"loading it was not done after {seconds:g} seconds") from None
        if "ready" not in greeting:
            raise ChildError(str(greeting.get("failed", "it did not say that it is ready")))

    def ask(self, arguments: dict[str, Any], deadline: float) -> dict[str, Any]:
        """The function's value as {"value": number}, or {"error": message}.

        Args:
            arguments: the function's, `completion` among them; JSON values.
            deadline: on the monotonic clock.

        Raises:
            TimeoutError: the deadline has passed; the process is still busy.
            ChildError: it has ended, or its reply is not one.
        """
        self._asked += 1
        self._write(json.dumps({"id": self._asked, "arguments": arguments}).encode() + b"\n", deadline)
        reply = self._read(deadline)
        known = isinstance(reply.get("value"), float) or isinstance(reply.get("error"), str)
        if reply.get("id") != self._asked or not known:
            raise ChildError("what came back is not the reply that was asked for")
        return reply

    def kill(self) -> None:
        """End the process and those that it started and did not set apart; harmless when repeated."""
        self._open.close()

    def _end(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _write(self, rest: bytes, deadline: float) -> None:
        while rest:
            self._wait(self._requests, select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._requests, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._ended() from None

    def _read(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            if len(self._buffer) > REPLY:
                raise ChildError("its reply has no end")
            self._wait(self._replies, select.POLLIN, deadline)
            piece = os.read(self._replies, REPLY)
            if not piece:
                raise self._ended()
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise ChildError("what came back is not the reply that was asked for")
        return reply

    def _wait(self, descriptor: int, event: int, deadline: float) -> None:
        """Return when something can be done with a descriptor."""
        poll = select.poll()
        poll.register(descriptor, event)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            living = self._process.poll() is None  # asked first, so that a last reply is never missed
            if poll.poll(min(left, GLANCE) * 1000):
                return
            if not living:
                raise self._ended()

    def _ended(self) -> ChildError:
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return ChildError("its process closed the pipe for replies")
        if code < 0:
            return ChildError(f"its process was ended by {signal.Signals(-code).name}")
        return ChildError(f"its process ended with exit code {code}")


@functools.cache
def _hide() -> None:
    """Keep this process's environment and memory from others of the same user, for as long as it lives.

    Only Linux shows them. Debuggers and profilers that attach from outside then need to be root.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
