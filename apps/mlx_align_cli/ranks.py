"""The program under `mlx.launch`, which starts it once on every machine with the same command line.

Rank 0 is the program as always. Another rank only lends its machine: it starts an engine in a folder of its
own, which learns everything from rank 0's engine, and shows nothing unless that engine fails.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from mlx_align import launched, methods
from mlx_align.errors import AlignError, ConfigError, error_class
from mlx_align_cli import errors
from mlx_align_cli.display.text import clean

if TYPE_CHECKING:
    from mlx_align.engine.launch import Engine

LINGER_SECONDS = 5.0
"""The launcher ends all ranks as soon as one has failed, so that rank 0 could not say why: it goes first."""
LOG_LINES = 12
LEAVE_SECONDS = 30.0
"""After SIGTERM an engine gets so long to reach the end of its micro-batch with the others, and save."""


def assists() -> bool:
    """Whether this is a rank other than 0."""
    return bool(launched.rank())


def quietly(run: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command line as another rank than 0: without a word, and only if it trains."""
    if not _trains(arguments):
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, LEAVING)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = nowhere
        try:
            code = run(arguments)
        finally:
            sys.stdout, sys.stderr = streams
    began = time.monotonic()
    while code and not LEAVING.count and time.monotonic() - began < LINGER_SECONDS:
        time.sleep(0.1)
    return code


def _trains(arguments: Sequence[str]) -> bool:
    words = [word for word in arguments if not word.startswith("-")]
    silent = {"--dry-run", "--help", "-h", "--version"}.intersection(arguments)
    return not silent and (words[:2] == ["runs", "resume"] or "".join(words[:1]) in methods.METHODS)


def refuse(*, detach: bool = False, backend: str = "mlx") -> None:
    """Refuse what is not possible for one of several ranks.

    Raises:
        ConfigError: the run should be detached, or trained by another backend than MLX.
    """
    if launched.rank() is None:
        return
    if backend != "mlx":
        raise ConfigError(
            f"mlx.launch starts several ranks, and the {backend} backend trains on one machine only",
            where=f"backend.name = {backend}",
            hint="Use --backend mlx, or start it without mlx.launch.",
        )
    if detach:
        raise ConfigError(
            "under mlx.launch a run cannot be detached: the launcher ends when this program does",
            where="--detach",
            hint="Leave it out; start mlx.launch itself in the background, with nohup or in tmux.",
        )


def assist() -> int:
    """Start an engine that works with rank 0's, and wait for its end.

    Returns:
        the engine's exit code.
    """
    from mlx_align.engine.launch import launch
    from mlx_align.runs import RunDirectory

    with tempfile.TemporaryDirectory(prefix="mlx-align-rank-") as folder:
        engine = launch(RunDirectory(Path(folder)))
        LEAVING.engine = engine
        if LEAVING.count:  # meanwhile
            engine.kill()
        code, failure = _outcome(engine)
        LEAVING.engine = None
        if failure is not None and not LEAVING.count:
            _tell(failure, engine)
    return code


class _Leaving:
    """At the first signal asks the engine to save and stop; kills it at the second, or when it takes long."""

    engine: Engine | None = None
    count = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.engine is None:
            return
        if self.count > 1:
            self.engine.kill()
            return
        self.engine.stop()
        if number == signal.SIGTERM:
            signal.setitimer(signal.ITIMER_REAL, LEAVE_SECONDS)


LEAVING = _Leaving()


def _outcome(engine: Engine) -> tuple[int, AlignError | None]:
    """How an engine ended: its exit code, and its last word if it failed."""
    from mlx_align.events import RunFailed

    try:
        (last,) = deque(engine.events(), maxlen=1)
    except AlignError as crash:
        hint = "Start all ranks again: `mlx.launch ... mlx-align runs resume RUN`."
        return crash.exit_code, type(crash)(crash.message, hint=hint)
    if isinstance(last, RunFailed):
        failed = error_class(last.exit_code)(last.message, where=last.where, hint=last.hint)
        return last.exit_code, failed
    return engine.process.returncode, None


def _tell(error: AlignError, engine: Engine) -> None:
    """Print it where mlx.launch shows it, among the other ranks' lines, with the end of a log that goes."""
    sys.stderr = sys.__stderr__
    print(f"rank {launched.rank()} ({platform.node()}):", file=sys.stderr)
    errors.tell(error)
    log = engine.run.log.read_text(encoding="utf-8", errors="replace").splitlines()
    print("\n".join(["  its log:", *(f"    {clean(line)}" for line in log[-LOG_LINES:])]), file=sys.stderr)
