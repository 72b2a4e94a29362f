"""Starting and stopping engines, and knowing which of them are this program's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from mlx_align.errors import AlignError, UsageError
from mlx_align.runs import CHECKPOINT, STOP, RunDirectory


class Process(Protocol):
    """As much of `subprocess.Popen` as is asked here."""

    @property
    def pid(self) -> int:
        """Its id."""

    def poll(self) -> int | None:
        """The exit code, None while it lives."""


class Engine(Protocol):
    """What `mlx_align.engine.launch.launch` returns, as far as it matters here."""

    @property
    def process(self) -> Process:
        """Its process."""


Launcher = Callable[[RunDirectory], Engine]


def launch(run: RunDirectory) -> Engine:
    """Start an engine; the module that does it is loaded when the first one starts.

    Raises:
        UsageError: an engine works on the run already.
    """
    from mlx_align.engine.launch import launch as start

    return start(run)


class Engines:
    """The engines that this program has started.

    Args:
        launcher: starts one.
    """

    def __init__(self, launcher: Launcher = launch) -> None:
        self._launcher = launcher
        self._lock = threading.Lock()
        self._starting: dict[str, RunDirectory] = {}
        self._started: dict[str, tuple[RunDirectory, Engine]] = {}
        self._preparing, self._closed = 0, False

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """While a run is put together on which an engine is to be started."""
        with self._lock:
            self._preparing += 1
        try:
            yield
        finally:
            with self._lock:
                self._preparing -= 1

    @property
    def prepares(self) -> bool:
        """Whether a run is being put together."""
        return self._preparing > 0

    def start(self, run: RunDirectory) -> None:
        """Start an engine on a run, new or to be resumed. It waits until the engine can be asked to stop.

        Raises:
            UsageError: an engine works on the run already, the run has finished, or the program was left.
            AlignError: the engine ended before it could write of it in the run's events.
        """
        if run.summary().get("status") == "finished":
            raise UsageError(
                f"the run '{run.name}' has finished; there is nothing left to do",
                hint="To train further, start a new run from its adapter.",
            )
        with self._lock:
            if self._closed:
                raise UsageError("the program was left before the run was started", where=run.name)
            if run.name in self._starting:
                raise UsageError(f"the run '{run.name}' is being started already")
            self._starting[run.name] = run
        try:
            engine = self._launcher(run)
            with self._lock:
                self._started[run.name] = (run, engine)
        finally:
            with self._lock:
                del self._starting[run.name]
        _check_begun(run, engine.process)

    def close(self) -> None:
        """Start nothing more."""
        with self._lock:
            self._closed = True

    def running(self) -> list[RunDirectory]:
        """The runs on which an engine started here still works, or is just being started."""
        with self._lock:
            starting, started = dict(self._starting), list(self._started.values())
        alive = {run.name: run for run, engine in started if engine.process.poll() is None}
        return list((alive | starting).values())

    def exit_code(self, run: RunDirectory) -> int | None:
        """How a run's newest engine ended; None if it runs, or was not started here."""
        with self._lock:
            started = self._started.get(run.name)
        if started is None or started[1].process.pid != run.last_pid():
            return None
        return started[1].process.poll()


def _check_begun(run: RunDirectory, process: Process) -> None:
    """Raise AlignError if an engine has ended without the run's lock: the events tell nothing of it."""
    code = process.poll()
    if code is None or process.pid == run.last_pid():
        return
    from mlx_align.engine.launch import death

    how = death(run, code)
    raise AlignError(f"{how.message}, before it could begin", where=str(run.log), hint=how.advice or None)


def stop(run: RunDirectory) -> int | None:
    """Ask a run's engine, whoever started it, to save and stop.

    Returns:
        its process id if it had been asked before, and has not done it yet; otherwise None.

    Raises:
        UsageError: none works on it.
    """
    pid = run.pid()  # read first: an engine that comes later is not the one that was asked
    before = run.control.requested(STOP)
    _ask(run, STOP)
    return pid if before else None


def kill(run: RunDirectory, pid: int) -> None:
    """End a run's engine at once, whoever started it; its last checkpoint remains.

    Args:
        run: what it works on.
        pid: the engine that is meant, as `stop` told it.

    Raises:
        UsageError: none works on it, or another, or it cannot be ended from here.
    """
    from mlx_align.engine.launch import kill as end

    end(run, pid)


def checkpoint(run: RunDirectory) -> None:
    """Ask a run's engine, whoever started it, to save a checkpoint and go on.

    Raises:
        UsageError: none works on it.
    """
    _ask(run, CHECKPOINT)


def _ask(run: RunDirectory, what: str) -> None:
    if not run.is_running():
        raise UsageError(f"the run '{run.name}' is not running", hint="Resume it on the list of runs.")
    run.control.request(what)
