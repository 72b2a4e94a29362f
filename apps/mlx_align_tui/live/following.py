"""Following one run: its log folded as it grows."""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mlx_align.events import Event
from mlx_align.run_state import RunState, reduce_all
from mlx_align.runs import Condition, EventReader, RunDirectory

BATCH = 50_000
"""Events that are read between two looks at the screen: about half a second of work."""
PART = 2_000
"""Of these so many are folded together: until then they are objects, which take much memory."""
TAIL = 1 << 16
"""Bytes of a log's end that are read at first."""


@dataclass(frozen=True)
class Progress:
    """What a look at a run has brought: how many new events, the state with them, what the engine has written
    besides, and whether more waits to be read.
    """

    count: int
    state: RunState
    condition: Condition
    log: str = ""
    more: bool = False


class Tail:
    """Reads what is added to a text file; of what is there already only the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset: int | None = None
        self._decoder = _decoder()

    def read(self) -> str:
        """What is new; "" while there is no file."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if self._offset is None or size < self._offset:  # first look, or it was emptied
                    self._offset, self._decoder = max(0, size - TAIL), _decoder()
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return ""
        self._offset += len(data)
        return self._decoder.decode(data)


def _decoder() -> IncrementalDecoder:
    """Keeps the half of a letter that a look ends with for the next one."""
    return getincrementaldecoder("utf-8")(errors="replace")


class Follower:
    """Reads a run's log from where it stopped last, and folds it.

    It belongs to one thread at a time; the states it gives away are frozen and may go anywhere.

    Args:
        run: the run.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.state = self._told = RunState()
        self._reader = EventReader(run.events)
        self._unread: Iterator[Event] = iter(())
        self._log = Tail(run.log)
        self._condition: Condition | None = None

    def poll(self, limit: int = BATCH) -> Progress | None:
        """What is new, None if nothing is. It returns without waiting.

        Args:
            limit: at most so many events at once.

        Raises:
            OSError: a file is there and cannot be read.
        """
        running = self.run.is_running()  # asked before reading, so that a last word is never missed
        count = self._fold(limit)
        if count < limit:  # what was there is read; what has come since begins anew
            self._unread = self._reader.read()
            count += self._fold(limit - count)
        condition, log = self._condition_of(running), self._log.read()
        if self.state is self._told and not log and condition == self._condition:
            return None
        self._told, self._condition = self.state, condition
        return Progress(count, self.state, condition, log, more=count == limit)

    def _fold(self, limit: int) -> int:
        """Fold what is read next; how many events that were."""
        count = 0
        while count < limit:
            part: list[Event] = []
            try:
                part.extend(islice(self._unread, min(PART, limit - count)))
            finally:  # whatever comes after them, the reader has gone past these
                self.state = reduce_all(self.state, part)
            if not part:
                break
            count += len(part)
        return count

    def _condition_of(self, running: bool) -> Condition:
        if running:
            return "running"
        return "crashed" if self.state.status == "running" else self.state.status
