"""The engine's voice: writes events, and keeps quiet where every call would be too much."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from mlx_align.events import Alert, Event, Heartbeat, Phase, Step

PHASE_SECONDS = 0.5
HEARTBEAT_SECONDS = 10.0
PhaseName = Literal[
    "loading", "preparing", "reference", "training", "evaluating", "sampling", "scoring", "saving"
]


class Reporter:
    """Writes a run's events.

    Args:
        write: appends one event to the log.
        clock: monotonic seconds.

    Attributes:
        step: the last step that was reported.
    """

    def __init__(self, write: Callable[[Event], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._last_phase = self._last = clock()
        self.step = 0

    def __call__(self, event: Event) -> None:
        """Write an event."""
        self._write(event)
        self._last = self._clock()
        self.step = event.step if isinstance(event, Step) else self.step

    def phase(self, name: PhaseName, detail: str = "") -> None:
        """Say what begins now."""
        self(Phase(name=name, detail=detail))
        self._last_phase = self._last

    def progress(self, name: PhaseName) -> Callable[[int, int], None]:
        """A function of (done, total) that reports at most twice a second, and at the end."""

        def report(done: int, total: int) -> None:
            if done == total or self._clock() - self._last_phase >= PHASE_SECONDS:
                self(Phase(name=name, done=done, total=total))
                self._last_phase = self._last

        return report

    def alert(
        self,
        code: str,
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "warning",
        step: int = 0,
        rows: tuple[str, ...] = (),
    ) -> None:
        """Say something that a person should know."""
        self(Alert(level=level, code=code, message=message, step=step, rows=rows[:20]))

    def heartbeat(self, step: int) -> None:
        """Give a sign of life if nothing has been said for a while."""
        if self._clock() - self._last >= HEARTBEAT_SECONDS:
            self(Heartbeat(step=step))
