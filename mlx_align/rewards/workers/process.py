"""One life of a process that scores: its pipes, and never waiting longer than asked for.

What the function prints goes nowhere: requests and replies have pipes of their own, so a gigabyte on stdout
can neither break the protocol nor fill memory.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")
VARIABLES = ("PATH", "LANG", "HOME")
"""What a scoring process sees of the environment, which may hold tokens and keys."""

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

    Args:
        file: the Python file, absolute.
        function: its name there.
        memory: limit on the process's address space, in MiB; macOS does not keep it.
        seconds: limit on loading the file.

    Raises:
        ChildError: the file cannot be loaded; the process has ended.
    """

    def __init__(self, file: Path, function: str, *, memory: int, seconds: float) -> None:
        theirs_in, self._requests = os.pipe()
        self._replies, theirs_out = os.pipe()
        self._buffer = b""
        self._asked = 0
        command = [sys.executable, "-I", "-B", str(CHILD), str(file), function]
        try:
            self._process = subprocess.Popen(
                [*command, str(theirs_in), str(theirs_out), str(memory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=file.parent,
                env={name: os.environ[name] for name in VARIABLES if name in os.environ},
                pass_fds=(theirs_in, theirs_out),
                start_new_session=True,  # to be ended together with all that it starts
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        for descriptor in (self._requests, self._replies):
            os.set_blocking(descriptor, False)
        try:
            self._loaded(time.monotonic() + seconds, seconds)
        except BaseException:
            self.kill()
            raise

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
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for descriptor in (self._requests, self._replies):
            if descriptor >= 0:
                os.close(descriptor)
        self._requests = self._replies = -1

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
