"""A model of the hub that is looked at and fetched by a process of its own."""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlx_align_tui.live import reaping
from mlx_align_tui.live.programs import Talking

GRACE = 5.0
"""Seconds that one that is left has to remove what is not whole."""
WINDOW = 20.0
"""Seconds over which the speed is measured."""


@dataclass(frozen=True)
class Parcel:
    """What would be fetched: files, their bytes, bytes that are free, and the folder they go to."""

    files: int
    size: int
    free: int
    folder: str

    @classmethod
    def of(cls, message: dict[str, Any]) -> Parcel:
        """From the message of `mlx_align.engine.fetching`."""
        return cls(**{key: value for key, value in message.items() if key != "type"})


class Fetching(Talking):
    """One model; see `mlx_align.engine.fetching`. It asks for lists at once, and fetches when told to.

    Args:
        name: owner/name.
        revision: None for the newest.
    """

    def __init__(self, name: str, revision: str | None) -> None:
        arguments = [name, *([revision] if revision else [])]
        super().__init__("mlx_align.engine.fetching", arguments, offline=False)
        self._reaper: subprocess.Popen[bytes] | None = None

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends, as `Talking.messages`."""
        try:
            yield from super().messages()
        finally:
            with self._lock:
                reaper, self._reaper = self._reaper, None
            if reaper is not None:
                reaping.dismiss(reaper)

    def begin(self) -> None:
        """Fetch it."""
        self.tell("fetch")

    def leave(self) -> None:
        """Stop it; one that the network keeps waiting is killed soon, even where this program ends first."""
        self.hang_up()
        with self._lock:
            self._closed = True  # a kill is no failure
            if self._process is not None and self._process.poll() is None and self._reaper is None:
                self._reaper = reaping.begin(self._process.pid, GRACE)


class Speed:
    """How quickly a count grows."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, now: float, count: int) -> float:
        """The growth a second over the last seconds; 0 while that is not known.

        Args:
            now: seconds on some clock.
            count: what was seen just now.
        """
        self._seen.append((now, count))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        since, before = self._seen[0]
        return (count - before) / (now - since) if now > since else 0.0
