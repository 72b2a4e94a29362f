"""Leaving in good order and at once: the terminal is put back, engines go on, slow work is not waited for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from textual.app import App

ASKS_TO_LEAVE = (signal.SIGTERM, signal.SIGHUP)
"""A shutdown or a kill, and a terminal that was closed."""
GRACE = 0.5
"""Seconds for threads to end by themselves."""
AT_ONCE = 64
"""Threads of slow work. Screens that follow a run hold one each as long as they are open, and mostly wait."""


def heed_signals(app: App[Any]) -> None:
    """Leave at these signals, with the exit code that a shell expects; what trains is detached.

    Only the main thread can be told of signals; elsewhere nothing changes.
    """
    if threading.current_thread() is threading.main_thread():
        loop = asyncio.get_running_loop()
        for number in ASKS_TO_LEAVE:
            loop.add_signal_handler(number, partial(app.exit, return_code=128 + number))


class Threads(ThreadPoolExecutor):
    """Where slow work is done, such as reading a long file: nobody who leaves waits for it."""

    def __init__(self) -> None:
        super().__init__(max_workers=AT_ONCE)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Begin nothing new; asyncio, which would wait, is not made to."""
        super().shutdown(wait=False, cancel_futures=True)


def depart(code: int) -> int:
    """The exit code, unless threads are still at work: Python would wait for them, so the process ends here.

    What they were writing is as after a crash, which every file of ours is made to survive.
    """
    end = time.monotonic() + GRACE
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, end - time.monotonic()))
    if any(thread.is_alive() and not thread.daemon for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
