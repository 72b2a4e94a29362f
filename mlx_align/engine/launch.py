"""Starting the engine as its own process, and following what it says.

A process and not a thread: a failing GPU ends the process it runs in, MLX's streams and random state
belong to a thread, and a fresh process gives all memory back.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mlx_align import launched
from mlx_align.errors import AlignError, DeviceAbortError, UsageError
from mlx_align.events import Event, RunFailed, RunFinished, RunStopped
from mlx_align.runs import CHECKPOINT, STOP, EventReader, RunDirectory
from mlx_align.runs.directory import is_run
from mlx_align.runs.lock import Holder

POLL_SECONDS = 0.1
TERMINAL = (RunFinished, RunStopped, RunFailed)
ADVICE = {
    signal.SIGABRT: "A GPU watchdog or a failed allocation does this: try shorter sequences "
    "(data.max_length) or smaller batches, keep the display off and the Mac awake (`caffeinate -i`), or set "
    "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1.",
    signal.SIGKILL: "The system may have run out of memory: try smaller batches.",
}
"""What may help where an engine was ended by one of these signals."""
RANKS_ADVICE = {
    signal.SIGTERM: "It was still waiting for the other ranks.",
    signal.SIGALRM: "The other ranks did not come.",
}
"""The same where it was to train with others, for which it waits deaf to requests."""
NO_DEVICES = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)
"""Sent by people, terminals and clocks."""


@dataclass
class Engine:
    """A handle on an engine process that this process started."""

    run: RunDirectory
    process: subprocess.Popen[bytes]
    reader: EventReader

    def stop(self) -> None:
        """Ask it to save and stop."""
        self.run.control.request(STOP)
        if launched.rank() is not None:  # it may still be waiting for other ranks, deaf to requests
            self.process.terminate()

    def kill(self) -> None:
        """End it at once; the last checkpoint remains."""
        self.process.kill()

    def events(self) -> Iterator[Event]:
        """Its events from this attempt's beginning until it has ended.

        Raises:
            AlignError: the process ended without a last word.
        """
        ended = False
        for event in _follow(self.reader, alive=lambda: self.process.poll() is None):
            ended = isinstance(event, TERMINAL)
            yield event
        self.process.wait()
        if not ended:  # whatever an earlier attempt's last word was
            raise crash(self.run, self.process.returncode)


def launch(run: RunDirectory) -> Engine:
    """Start an engine on a run, new or to be resumed; it outlives this process and its terminal.

    Raises:
        UsageError: an engine works on the run already.
    """
    if run.is_running():
        raise UsageError(
            f"an engine is already working on the run '{run.name}'",
            hint=f"Follow it with `mlx-align runs attach {run.name}`.",
        )
    for request in (STOP, CHECKPOINT):  # left over from an attempt that died; the engine itself clears none,
        run.control.clear(request)  # so that a request made while it is still loading is not lost
    # -P: the folder a person works in is not a place to import from; a numpy.py beside the data is not numpy.
    command = [sys.executable, "-P", "-m", "mlx_align.engine", str(run.path)]
    reader = EventReader(run.events)
    for _ in reader.read():  # what earlier attempts said is not news
        pass
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        while process.poll() is None and not run.is_running():  # until then it could not be asked to stop
            time.sleep(POLL_SECONDS / 5)
    except BaseException:  # Ctrl-C just now: nobody would have a handle on it
        process.terminate()
        process.wait()
        raise
    return Engine(run, process, reader)


def check_resumable(run: RunDirectory) -> None:
    """See that a run can go on, before anything of it is changed.

    Raises:
        UsageError: there is no such run, an engine works on it, or it has finished.
    """
    if not is_run(run.path):
        raise UsageError(f"there is no run at {run.path}", hint="`mlx-align runs ls` lists them.")
    if run.is_running():
        raise UsageError(
            f"the run '{run.name}' is running", hint=f"Follow it: `mlx-align runs attach {run.name}`."
        )
    if isinstance(run.state().end, RunFinished):
        raise UsageError(
            f"the run '{run.name}' has finished; there is nothing left to do",
            hint=f"To train further, start a new run with --set adapter.start={run.adapter}",
        )


def attach(run: RunDirectory) -> Iterator[Event]:
    """All events of a run from its first, then new ones until it ends.

    Raises:
        AlignError: it ended without a last word.
    """
    yield from _follow(EventReader(run.events), alive=run.is_running)
    if run.condition(run.state()) == "crashed":
        raise crash(run, None)


def _follow(reader: EventReader, alive: Callable[[], bool]) -> Iterator[Event]:
    while True:
        living = alive()  # asked before reading, so that a last word is never missed
        yield from reader.read()
        if not living:
            return
        time.sleep(POLL_SECONDS)


def kill(run: RunDirectory, pid: int | None) -> None:
    """End a run's engine at once, whoever started it, because one that hangs hears no request.

    The last checkpoint remains. It has not ended yet when this returns: that is up to the system.

    Args:
        run: what it works on.
        pid: the engine that is meant, as `RunDirectory.pid` told it; no other is ended in its place.

    Raises:
        UsageError: none works on it, or another, or it cannot be ended from here.
    """
    held = run.holder()
    if held is None:
        raise _not_running(run)
    if held.pid != pid:
        raise UsageError(
            f"another engine works on the run '{run.name}' by now",
            hint="The one that was meant has ended; this one goes on.",
        )
    run.control.request(STOP)  # so that whoever looks at how it ended sees that this was wished
    if not held.is_here():  # over a network disk the lock is seen, but the number is somebody else's here
        raise _out_of_reach(run, held.pid, _elsewhere(held))
    try:
        os.kill(held.pid, signal.SIGKILL)
    except ProcessLookupError:
        if not run.is_running():  # it has just ended by itself
            raise _not_running(run) from None
        raise _out_of_reach(run, held.pid, "No process of this number is seen here.") from None
    except PermissionError:
        raise _out_of_reach(run, held.pid, "It belongs to another user.") from None


def _not_running(run: RunDirectory) -> UsageError:
    return UsageError(f"the run '{run.name}' is not running", hint="`mlx-align runs ls` shows which are.")


def _elsewhere(held: Holder) -> str:
    here = platform.node()
    if held.host == here:
        return f"It runs on another machine, or in another container, that is called '{here}' too."
    if held.host:
        return f"It runs on '{held.host}', and this is '{here}'."
    return "Its lock does not say on which machine it runs."


def _out_of_reach(run: RunDirectory, pid: int, why: str) -> UsageError:
    return UsageError(
        f"the engine of the run '{run.name}', process {pid}, cannot be ended from here",
        hint=f"{why} It was asked to save and stop; if it does not, end it there.",
    )


class Death(NamedTuple):
    """What can be said of an engine that died without a last word.

    Args:
        message: what happened.
        advice: what may help, "" where nobody knows.
        of_device: whether the device or the system ended it, and no person.
    """

    message: str
    advice: str
    of_device: bool


def death(run: RunDirectory, code: int | None) -> Death:
    """How an engine died.

    Args:
        run: what it worked on.
        code: its exit code as `subprocess` tells it, None if that is not known.
    """
    if code is None or code >= 0:
        return Death("the engine ended without a last word", "", of_device=False)
    number = signal.Signals(-code)
    if number in (signal.SIGKILL, signal.SIGTERM) and run.control.requested(STOP):
        how = "killed" if number is signal.SIGKILL else "ended"
        return Death(f"the engine was {how} after it had been asked to stop", "", of_device=False)
    advice = ADVICE if launched.rank() is None else {**ADVICE, **RANKS_ADVICE}
    message = f"the engine was ended by {number.name}"
    return Death(message, advice.get(number, ""), of_device=number not in NO_DEVICES)


def crash(run: RunDirectory, code: int | None) -> AlignError:
    """The error for an engine that died without a last word; see `death`."""
    how = death(run, code)
    resume = f"See {run.log}. `mlx-align runs resume {run.path}` goes on from the last checkpoint."
    kind = DeviceAbortError if how.of_device else AlignError
    return kind(how.message, where=run.name, hint=f"{how.advice} {resume}".lstrip())
