"""`python -m mlx_align.engine RUN_DIR`: one attempt at a run, from its last checkpoint if it has one."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType

from safetensors import SafetensorError

from mlx_align import backends, launched
from mlx_align.backends.base import World
from mlx_align.engine.ranks import copy_run
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.session import Session
from mlx_align.engine.tokenizer import spare_torch
from mlx_align.errors import AlignError, DeviceAbortError, InterruptedRunError
from mlx_align.events import RunFailed
from mlx_align.runs import STOP, EventWriter, RunDirectory, RunLock, next_numbers

DEVICE_WORDS = ("malloc", "out of memory", "insufficient memory", "[metal]", "gpu timeout", "cuda error")
"""What MLX and torch say in a RuntimeError when memory or the device fails them."""


def main(arguments: list[str]) -> int:
    """Run one attempt; returns its exit code (see `errors.EXIT_CODES`)."""
    run = RunDirectory(Path(arguments[0]).resolve())
    try:
        with RunLock(run.lock):
            return attempt(run)
    except AlignError as error:  # another engine has the lock: its log is not ours to write to
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def attempt(run: RunDirectory) -> int:
    """Continue a run whose lock is held, and say in its log how it ended."""
    number, seq = next_numbers(run.events)
    writer = EventWriter(run.events, attempt=number, seq=seq)
    report = Reporter(writer)
    try:
        world = _join(report)
        _stop_on_signals(run)
        copy_run(run, world)  # only now has every rank a configuration
        spare_torch(run.config().backend.name)
        Session(run, report, world).work()
        code = 0
    except InterruptedRunError as error:
        code = error.exit_code
    except Exception as error:
        traceback.print_exc()  # to engine.log
        code = _fail(run, report, explain(error, run))
    writer.sync()
    writer.close()
    return code


def _join(report: Reporter) -> World:
    if (rank := launched.rank()) is not None:
        report.phase("loading", f"rank {rank} waits for the others")
    return backends.join()


def _fail(run: RunDirectory, report: Reporter, error: AlignError) -> int:
    last_word = RunFailed(
        step=report.step,
        kind=error.kind,
        message=error.message,
        where=error.where,
        hint=error.hint,
        exit_code=error.exit_code,
    )
    with suppress(OSError):  # on a full disk even this may be too much; engine.log has the error as well
        report(last_word)
        run.write_summary(**{**run.summary(), "status": "failed"})
    return error.exit_code


def explain(error: Exception, run: RunDirectory) -> AlignError:
    """An error that a person can act on, from whatever was raised."""
    if isinstance(error, AlignError):
        return error
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if full or (isinstance(error, SafetensorError) and f"os error {errno.ENOSPC}" in str(error)):
        return AlignError(
            "the disk is full", where=str(run.path), hint="Make room, then resume: nothing saved is lost."
        )
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in DEVICE_WORDS):
        return DeviceAbortError(
            f"the device gave up: {error}",
            hint="Try a smaller train.batch_size or train.tokens_per_batch with more train.accumulate, or a "
            "smaller data.max_length.",
        )
    return AlignError(
        f"this is a bug in mlx-align: {type(error).__name__}: {error}",
        where=str(run.log),
        hint="Please report it with that file's last lines; the last checkpoint is intact.",
    )


def _stop_on_signals(run: RunDirectory) -> None:
    """A polite signal is a request to save and stop."""

    def request(number: int, frame: FrameType | None) -> None:
        run.control.request(STOP)

    signal.signal(signal.SIGTERM, request)
    signal.signal(signal.SIGINT, request)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if launched.rank() is not None:  # MLX might wait for ranks that have gone
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
