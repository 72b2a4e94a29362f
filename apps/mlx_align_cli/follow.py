"""Following a run to its end: events to a display, Ctrl-C to the engine, the end to an exit code.

The engine is a process of its own. A run in the foreground still belongs to its front end: where that is
ended by SIGTERM, loses its terminal or loses the reader of its output, the engine is asked to save and stop.
Only a run that was started with --detach, or is merely attached to, goes on.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Protocol

from mlx_align.errors import AlignError, error_class
from mlx_align.events import Event, RunFailed, RunFinished, RunStopped
from mlx_align.run_state import RunState, reduce
from mlx_align.runs import RunDirectory
from mlx_align_cli.display import Display
from mlx_align_cli.display.report import adapter_path
from mlx_align_cli.errors import drop_unread, say
from mlx_align_cli.naming import program, run_word
from mlx_align_cli.saved import step_of

STOPS = "Ctrl-C saves a checkpoint and stops"
DETACHES = "Ctrl-C detaches; the run goes on"
STOPPING = "saving a checkpoint, press Ctrl-C again to kill"
KILLING = "killing the engine"
INTERRUPTED = 130
ENDINGS = {signal.SIGTERM: "ended by SIGTERM", signal.SIGHUP: "the terminal was closed"}
"""Signals that end this program, and what they mean. Its exit code is then 128 and the signal's number."""
READERLESS = (errno.EPIPE, errno.EIO)
"""How writing fails when the reader of a pipe, or the terminal, has gone."""


class _Ended(BaseException):
    """A signal of ENDINGS has come."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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
        the exit code: 0 finished, 130 stopped or killed on request, 1 nobody reads the output any more.

    Raises:
        AlignError: the run failed, or its engine died.
        SystemExit: a signal ended this program; the engine saves and stops by itself.
    """
    display.begin(run.name, STOPS)
    interrupts = _Interrupts(engine, display)
    try:
        with belongs_here(run, engine.stop), display, _handling(signal.SIGINT, interrupts):
            state = _show_until_killed(engine, display, earlier, interrupts)
            if state.end is not None:
                display.end(run, state)
    except OSError as error:
        if error.errno not in READERLESS:
            raise
        return _unread(run, engine)
    if state.end is None and interrupts.count >= 2:
        say(f"killed; {last_checkpoint(run)}")
        return INTERRUPTED
    return _conclude(run, state, display)


@contextmanager
def belongs_here(run: RunDirectory, stop: Callable[[], None]) -> Iterator[None]:
    """As long as this lasts, what ends this program makes the run save and stop, at once and with a word."""

    def leave(number: int, frame: FrameType | None) -> None:
        stop()
        raise _Ended(number)

    with ExitStack() as handlers:
        for number in ENDINGS:
            handlers.enter_context(_handling(number, leave))
        try:
            yield
            return
        except _Ended as ending:
            code, reason = 128 + ending.number, ENDINGS[signal.Signals(ending.number)]
        except KeyboardInterrupt:  # before or after the time in which Ctrl-C is counted
            stop()
            code, reason = INTERRUPTED, "interrupted"
        say(f"{reason}: {_will_stop(run)}")
        drop_unread()
        raise SystemExit(code)


def _will_stop(run: RunDirectory) -> str:
    resume = f"{program()} runs resume {run_word(run)}"
    return f"the run saves a checkpoint and stops; go on with `{resume}`"


def _unread(run: RunDirectory, engine: Engine) -> int:
    engine.stop()
    say(f"nobody reads the output any more: {_will_stop(run)}")
    drop_unread()
    return 1


def last_checkpoint(run: RunDirectory) -> str:
    """What is left of a run whose engine was killed."""
    latest = run.checkpoints().latest()
    if latest is None:
        return "no checkpoint had been saved"
    resume = f"{program()} runs resume {run_word(run)}"
    return f"the last checkpoint is step {step_of(latest):,}; go on with `{resume}`"


def _show_until_killed(
    engine: Engine, display: Display, earlier: RunState | None, interrupts: _Interrupts
) -> RunState:
    try:
        return _show_all(engine.events(), display, earlier)
    except AlignError:
        if interrupts.count < 2:
            raise
        return RunState()


def follow_attached(run: RunDirectory, events: Iterator[Event], display: Display) -> int:
    """Follow a run that another process started; Ctrl-C only stops looking.

    Returns:
        the exit code: 0 finished or detached, 130 stopped.

    Raises:
        AlignError: the run failed or crashed.
    """
    display.begin(run.name, DETACHES)
    try:
        with display, _handling(signal.SIGTERM, _detach):
            state = _show_all(events, display)
            if state.end is not None:
                display.end(run, state)
    except KeyboardInterrupt:
        say(f"detached; the run goes on. Come back with: {program()} runs attach {run_word(run)}")
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
            if display.prints_adapter and not (display.tells_adapter and sys.stdout.isatty()):
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
    if signal.getsignal(number) is signal.SIG_IGN:  # as nohup asks
        yield
        return
    previous = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


def _detach(number: int, frame: FrameType | None) -> None:
    """What ends a program that only looks on does not end the engine."""
    raise SystemExit(128 + number)
