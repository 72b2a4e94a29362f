"""The engine's stdin: read in a thread of its own, so that a cancel is heard while an answer is made."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from mlx_align.engine.chat.protocol import Cancel, Close, Request, request
from mlx_align.errors import UsageError

CHUNK = 1 << 16


class Inbox:
    """Requests in their order, and cancels at once.

    Args:
        descriptor: where the lines come from.
        at_end: called, in the reading thread, when no more can come.
    """

    def __init__(self, descriptor: int, at_end: Callable[[], None]) -> None:
        self._descriptor, self._at_end = descriptor, at_end
        self._waiting: SimpleQueue[Request | UsageError | None] = SimpleQueue()
        self._cancelled: set[int] = set()
        self._closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Request | UsageError | None:
        """Wait for the next line: a request, what is wrong with it, or None when no more will come."""
        return self._waiting.get()

    def cancelled(self, number: int) -> bool:
        """Whether this ask need not be answered any further."""
        return self._closed or number in self._cancelled

    def forget(self, number: int) -> None:
        """Its ask has been answered, so the number may come again."""
        self._cancelled.discard(number)

    def _read(self) -> None:
        # Not by sys.stdin: a thread that waits in it holds a lock which the interpreter wants when it ends.
        rest = b""
        while not self._closed and (piece := os.read(self._descriptor, CHUNK)):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._take(line)
        self._closed = True  # a torn last line is nobody's request: its writer died
        self._waiting.put(None)
        self._at_end()

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            made = request(line)
        except UsageError as error:
            self._waiting.put(error)
            return
        if isinstance(made, Cancel):
            self._cancelled.add(made.id)
        elif isinstance(made, Close):
            self._closed = True
        else:
            self._waiting.put(made)
