"""Following a run to its end: events to a display, Ctrl-C to the engine, the end to an exit code.

The engine is a process of its own. If this one dies, or is ended with SIGTERM, the run goes on.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Protocol

from mlx_align.errors import AlignError, InterruptedRunError, error_class
from mlx_align.events import Event, RunFailed, RunFinished, RunState, RunStopped, reduce
from mlx_align.runs import RunDirectory
from mlx_align_cli.display import Display
from mlx_align_cli.display.report import adapter_path
from mlx_align_cli.naming import run_word

STOPS = "Ctrl-C saves a checkpoint and stops"
DETACHES = "Ctrl-C detaches; the run goes on"
STOPPING = "saving a checkpoint, press Ctrl-C again to kill"
KILLING = "killing the engine"
INTERRUPTED, TERMINATED = 130, 143


class Engine(Protocol):
    """What `engine.launch` returns, as far as it matters here."""

    def events(self) -> Iterator[Event]:
        """Its events until it has ended."""

    def stop(self) -> None:
        """Ask it to save and stop."""

    def kill(self) -> None:
        """End it at once."""


@dataclass
class _Interrupts:
    """Counts Ctrl-C: the first stops the engine, the second kills it."""

    engine: Engine
    display: Display
    count: int = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self.engine.stop()
            self.display.notice(STOPPING)
        else:
            self.engine.kill()
            self.display.notice(KILLING)


def follow_engine(
    run: RunDirectory, engine: Engine, display: Display, earlier: RunState | None = None
) -> int:
    """Follow an engine that this process started.

    Args:
        run: what it works on.
        engine: the engine.
        display: shows it.
        earlier: the run as it was before this attempt; None for a new run.

    Returns:
        the exit code: 0 finished, 130 stopped or killed on request.

    Raises:
        AlignError: the run failed, or its engine died.
    """
    display.begin(run.name, STOPS)
    interrupts = _Interrupts(engine, display)
    with display, _handling(signal.SIGINT, interrupts), _handling(signal.SIGTERM, _leave):
        try:
            state = _show_all(engine.events(), display, earlier)
        except AlignError:
            if interrupts.count < 2:
                raise
            state = RunState()
        if state.end is not None:
            display.end(run, state)
    if state.end is None and interrupts.count >= 2:
        raise InterruptedRunError(
            "killed",
            where=run.name,
            hint=f"`mlx-align runs resume {run_word(run)}` goes on from the last checkpoint.",
        )
    return _conclude(run, state, display)


def follow_attached(run: RunDirectory, events: Iterator[Event], display: Display) -> int:
    """Follow a run that another process started; Ctrl-C only stops looking.

    Returns:
        the exit code: 0 finished or detached, 130 stopped.

    Raises:
        AlignError: the run failed or crashed.
    """
    display.begin(run.name, DETACHES)
    try:
        with display, _handling(signal.SIGTERM, _leave):
            state = _show_all(events, display)
            if state.end is not None:
                display.end(run, state)
    except KeyboardInterrupt:
        print(
            f"detached; the run goes on. Come back with: mlx-align runs attach {run_word(run)}",
            file=sys.stderr,
        )
        return 0
    return _conclude(run, state, display)


def _show_all(events: Iterator[Event], display: Display, earlier: RunState | None = None) -> RunState:
    state = replace(earlier, status="new", end=None, phase=None) if earlier else RunState()
    for event in events:
        state = reduce(state, event)
        display.show(event, state)
    return state


def _conclude(run: RunDirectory, state: RunState, display: Display) -> int:
    match state.end:
        case RunFinished():
            if display.prints_adapter:
                print(adapter_path(run))
            return 0
        case RunStopped():
            return INTERRUPTED
        case RunFailed() as end:
            hint = end.hint or f"The engine's log is {run.log}."
            raise error_class(end.exit_code)(end.message, where=end.where, hint=hint)
    raise AlignError("the run ended without a last word", where=run.name, hint=f"See {run.log}.")


@contextmanager
def _handling(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


def _leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends this process and not the engine."""
    raise SystemExit(TERMINATED)
