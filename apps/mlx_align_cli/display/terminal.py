"""The terminal's own echo, which would print ^C into the live screen."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_FLAGS = 3
"""Index of the local flags in what tcgetattr returns."""


@contextmanager
def without_control_echo() -> Iterator[None]:
    """Keep the terminal from showing Ctrl-C as ^C, where this process is the one that it talks to."""
    try:
        descriptor = sys.stdin.fileno()
        if os.tcgetpgrp(descriptor) != os.getpgrp():  # in the background, asking would stop this process
            raise OSError
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):
        yield
        return
    changed = [*before]
    changed[_FLAGS] &= ~termios.ECHOCTL
    termios.tcsetattr(descriptor, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
