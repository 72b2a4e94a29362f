"""Watching one run for a screen: its state, its curves and its health, made in a thread of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mlx_align.run_state import RunState
from mlx_align.runs import Condition, RunDirectory
from mlx_align_cli.display.facts import Pace, pace
from mlx_align_tui.live.columns import Columns, Curves
from mlx_align_tui.live.following import Follower, Progress
from mlx_align_tui.live.health import Finding, findings

POLL_SECONDS = 0.25
QUIET_SECONDS = 2.0
"""Without news a screen is still told the time this often: what is left gets less, silence longer."""


@dataclass(frozen=True)
class Look:
    """All that Monitor shows of a run at one moment. `log` is what was added since the last look."""

    state: RunState
    condition: Condition
    curves: Curves
    pace: Pace
    findings: tuple[Finding, ...]
    log: str = ""
    more: bool = False


def watch(
    run: RunDirectory,
    tell: Callable[[Look], object],
    wait: Callable[[float], bool],
    clock: Callable[[], float] = time.time,
) -> None:
    """Watch a run until told to end.

    Args:
        run: the run.
        tell: called with each look, from this thread.
        wait: waits for so many seconds, True if this is to end; `threading.Event.wait` is one.
        clock: seconds since the epoch.

    Raises:
        OSError: a file of the run cannot be read.
    """
    follower, columns = Follower(run), Columns()
    last: Progress | None = None
    told = 0.0
    while True:
        progress = follower.poll()
        last = progress or last
        if last is not None and (progress is not None or clock() - told >= QUIET_SECONDS):
            columns.follow(last.state)
            told = clock()
            tell(_look(last, columns, told, progress.log if progress else ""))
        if wait(0.0 if last is not None and last.more and progress else POLL_SECONDS):
            return


def _look(progress: Progress, columns: Columns, now: float, log: str) -> Look:
    running = progress.condition == "running"
    return Look(
        progress.state,
        progress.condition,
        columns.curves(),
        pace(progress.state, now if running else None),
        tuple(findings(progress.state, now=now, running=running)),
        log,
        progress.more,
    )
