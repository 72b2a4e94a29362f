"""Watching one run for a screen: its state, its curves and its health, made in a thread of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mlx_align.run_state import RunState
from mlx_align.runs import Condition, RunDirectory
from mlx_align_cli.display.facts import Pace, pace
from mlx_align_tui.live.columns import Columns, Curves
from mlx_align_tui.live.following import Follower, Progress
from mlx_align_tui.live.health import Finding, findings

if TYPE_CHECKING:
    from mlx_align.engine.launch import Death

POLL_SECONDS = 0.25
QUIET_SECONDS = 2.0
"""Without news of a run that goes on a screen is still told the time this often: what is left gets less."""


@dataclass(frozen=True)
class Look:
    """All that Monitor shows of a run at one moment.

    Args:
        log: what was added since the last look.
        more: whether more waits to be read.
        death: how the engine died, if it did without a last word.
        trouble: why the run cannot be read now; all else is then as it was read last.
    """

    state: RunState = field(default_factory=RunState)
    condition: Condition | Literal["unreadable"] = "new"
    curves: Curves = field(default_factory=dict)
    pace: Pace = field(default_factory=lambda: Pace(None, 0.0, None))
    findings: tuple[Finding, ...] = ()
    log: str = ""
    more: bool = False
    death: Death | None = None
    trouble: str = ""


class Newest:
    """The newest look, from the thread that makes it to whoever shows it, who may be the slower one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._look: Look | None = None

    def put(self, look: Look) -> bool:
        """Take the place of a look that was not seen, whose log this one carries on.

        Returns:
            whether there was none: whoever shows them is then to be called.
        """
        with self._lock:
            old, self._look = self._look, look
            if old is not None:
                self._look = replace(look, log=old.log + look.log)
            return old is None

    def take(self) -> Look | None:
        """The newest look, None if it was seen."""
        with self._lock:
            look, self._look = self._look, None
            return look


class Watcher:
    """Makes looks at one run. It belongs to one thread.

    Args:
        run: the run.
        exit_code: how its newest engine ended, None where that is not known.
        clock: seconds since the epoch.
    """

    def __init__(
        self, run: RunDirectory, exit_code: Callable[[], int | None], clock: Callable[[], float]
    ) -> None:
        self._run, self._exit_code, self._clock = run, exit_code, clock
        self._follower, self._columns = Follower(run), Columns()
        self._last: Progress | None = None
        self._told = Look()
        self._when = 0.0

    def look(self) -> Look | None:
        """The run as it is now, None if there is nothing to tell. It returns without waiting."""
        try:
            look = self._read()
        except OSError as error:
            look = self._unreadable(error)
        if look is not None:
            self._told = look
        return look

    def _read(self) -> Look | None:
        progress = self._follower.poll()
        self._last = progress or self._last
        if self._last is None:
            return None
        death, now = self._death(self._last.condition), self._clock()
        late = self._last.condition == "running" and now - self._when >= QUIET_SECONDS
        if progress is None and not late and not self._told.trouble and death == self._told.death:
            return None
        self._when = now
        self._columns.follow(self._last.state)
        look = _look(self._last, self._columns.curves(), now)
        if progress is None:
            return replace(look, death=death)
        return replace(look, death=death, log=progress.log, more=progress.more)

    def _death(self, condition: Condition) -> Death | None:
        """How the engine died; the system may tell a moment later than it lets go of the run."""
        if condition != "crashed":
            return None
        from mlx_align.engine.launch import death

        return death(self._run, self._exit_code())

    def _unreadable(self, error: OSError) -> Look | None:
        """What was told last with the trouble, None if that was told too."""
        trouble = error.strerror or str(error)
        if self._told.trouble == trouble:
            return None
        return replace(self._told, condition="unreadable", log="", more=False, trouble=trouble)


def watch(
    run: RunDirectory,
    tell: Callable[[Look], object],
    wait: Callable[[float], bool],
    *,
    exit_code: Callable[[], int | None] = lambda: None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Watch a run until told to end; one that cannot be read now may be read later.

    Args:
        run: the run.
        tell: called with each look, from this thread.
        wait: waits for so many seconds, True if this is to end; `threading.Event.wait` is one.
        exit_code: how the run's newest engine ended, None where that is not known.
        clock: seconds since the epoch.
    """
    watcher = Watcher(run, exit_code, clock)
    while True:
        look = watcher.look()
        if look is not None:
            tell(look)
        if wait(0.0 if look is not None and look.more else POLL_SECONDS):
            return


def _look(progress: Progress, curves: Curves, now: float) -> Look:
    state, running = progress.state, progress.condition == "running"
    found = findings(state, now=now, running=running)
    return Look(state, progress.condition, curves, pace(state, now if running else None), tuple(found))
