"""How an error is told on stderr: what happened, where, and what to do next."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from mlx_align.errors import AlignError
from mlx_align_cli.display.text import clean
from mlx_align_cli.naming import program


def tell(error: AlignError) -> None:
    """Print an error that a person can act on."""
    lines = [f"error: {error.message}"]
    if error.where:
        lines.append(f"  where: {error.where}")
    if error.hint:
        lines.append(f"  next:  {error.hint.replace('`mlx-align ', f'`{program()} ')}")
    print("\n".join(clean(line) for line in lines), file=sys.stderr)


def tell_bug(error: Exception, debug: bool) -> None:
    """Print an error that should not exist."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    advice = "" if debug else "; run again with `mlx-align --debug ...` for the traceback"
    print(clean(f"error: this is a bug in mlx-align, {what}{place}{advice}"), file=sys.stderr)


def say(text: str) -> None:
    """Print a line on stderr if there is still somebody to read it."""
    with suppress(OSError, ValueError, RuntimeError):  # gone, closed, or in the middle of another line
        print(text, file=sys.stderr, flush=True)


def drop_unread() -> None:
    """Let go of the streams whose reader has gone, so that ending does not fail at the last flush."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _to_nowhere(stream)


def _to_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
