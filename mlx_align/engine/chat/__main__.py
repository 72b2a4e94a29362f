"""`python -m mlx_align.engine.chat`: a chat engine that obeys the lines on stdin; see `protocol`.

Nothing but replies goes to stdout, whatever a library prints. It ends when stdin does, so it never
outlives the program that started it.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from mlx_align.engine.__main__ import DEVICE_WORDS
from mlx_align.engine.chat.inbox import Inbox
from mlx_align.engine.chat.protocol import Ask, Failed, Open, encoded
from mlx_align.engine.chat.session import Say, Session
from mlx_align.engine.tokenizer import spare_torch
from mlx_align.errors import AlignError, DeviceAbortError, InterruptedRunError, UsageError

GRACE = 10.0
"""Seconds after the end of stdin in which whatever is being computed may come to its next token."""


def main() -> int:
    """Obey stdin until it ends; returns the exit code."""
    with os.fdopen(os.dup(1), "wb", buffering=0) as stdout:
        os.dup2(2, 1)
        return work(0, lambda reply: _write(stdout.fileno(), encoded(reply)), _leave_soon)


def work(descriptor: int, say: Say, at_end: Callable[[], None] = lambda: None) -> int:
    """Load what the first request names, and answer those that follow.

    Args:
        descriptor: where requests are read.
        say: sends a reply.
        at_end: called in another thread when no more requests can come.

    Returns:
        the exit code (see `errors.EXIT_CODES`).
    """
    try:
        inbox = Inbox(descriptor, at_end)
        opening = inbox.next()
        if opening is not None:
            _obey(_opened(opening), inbox, say)
        return 0
    except KeyboardInterrupt:
        return InterruptedRunError.exit_code
    except BrokenPipeError:  # nobody listens any more
        return 1
    except Exception as error:
        traceback.print_exc()  # on stderr, for whoever keeps it
        failure = explain(error)
        with suppress(OSError):
            say(Failed.of(failure))
        return failure.exit_code


def _opened(opening: object) -> Session:
    if isinstance(opening, UsageError):
        raise opening
    if not isinstance(opening, Open):
        raise UsageError("the first request must say what to open")
    spare_torch(opening.backend.name)
    return Session.load(opening)


def _obey(session: Session, inbox: Inbox, say: Say) -> None:
    say(session.hello)
    while (request := inbox.next()) is not None:
        if isinstance(request, Ask):
            _answer(session, request, inbox, say)
        elif isinstance(request, UsageError):
            say(Failed.of(request))
        else:
            say(Failed.of(UsageError("a model is open already")))


def _answer(session: Session, ask: Ask, inbox: Inbox, say: Say) -> None:
    try:
        session.answer(ask, say, lambda: inbox.cancelled(ask.id))
    except DeviceAbortError:
        raise
    except AlignError as error:
        say(Failed.of(error, ask.id))
    inbox.forget(ask.id)


def explain(error: Exception) -> AlignError:
    """An error that a person can act on, from whatever was raised."""
    if isinstance(error, AlignError):
        return error
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in DEVICE_WORDS):
        hint = "Try a smaller model, or a shorter conversation."
        return DeviceAbortError(f"the device gave up: {error}", hint=hint)
    return AlignError(
        f"this is a bug in mlx-align: {type(error).__name__}: {error}",
        hint="Please report it, with what was asked.",
    )


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


def _leave_soon() -> None:
    """A device that hangs must not keep a process alive whose client has gone."""
    time.sleep(GRACE)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
