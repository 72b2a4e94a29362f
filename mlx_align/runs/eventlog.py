"""The event log: one writer that appends whole lines, any number of readers that follow it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlx_align.events import Event, parse
from mlx_align.run_state import RunState, reduce_all

CHUNK = 1 << 20


class EventWriter:
    """Appends events to a run's log, each with one write() so that lines never interleave.

    Args:
        path: the log; it need not exist.
        attempt: the number of this attempt.
        seq: the next sequence number.
    """

    def __init__(self, path: Path, *, attempt: int, seq: int, clock: Callable[[], float] = time.time) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._attempt, self._seq, self._clock = attempt, seq, clock
        self._close_torn_line()

    def _close_torn_line(self) -> None:
        """A killed writer may leave half a line: end it, so that the next event starts a line of its own."""
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")

    def __call__(self, event: Event) -> None:
        """Number, stamp and append one event."""
        now = self._clock()
        stamped = event.model_copy(update={"seq": self._seq, "attempt": self._attempt, "t": now})
        line = stamped.model_dump_json().encode() + b"\n"
        written = os.write(self._descriptor, line)
        if written < len(line):  # a disk that is almost full takes a part; the reader skips a torn line
            self._close_torn_line()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._seq += 1

    def sync(self) -> None:
        """Make everything written so far reach the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """End writing."""
        os.close(self._descriptor)


class EventReader:
    """Reads whole lines from where it last stopped; a torn last line is left for the next time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[Event]:
        """The events that have come since the last call."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            rest = b""
            while chunk := file.read(CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._offset += len(line) + 1
                    event = parse(line) if line else None
                    if event is not None:
                        yield event


def fold(path: Path) -> RunState:
    """The state of a run as its whole log tells it."""
    return reduce_all(RunState(), EventReader(path).read())


def next_numbers(path: Path) -> tuple[int, int]:
    """(attempt, seq) for a writer that continues this log."""
    attempt, seq = 0, -1
    for event in EventReader(path).read():
        attempt, seq = max(attempt, event.attempt), max(seq, event.seq)
    return attempt + 1, seq + 1
