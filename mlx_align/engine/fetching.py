"""`python -m mlx_align.engine.fetching NAME [REVISION]`: a model of the hub for a front end, as JSON lines.

It says what would be fetched and how large that is, and fetches nothing before a line comes on stdin. Then it
says how far it is, until the model is there. The end of stdin stops it: whole files stay in the cache, and
those that are not whole are removed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mlx_align import hub
from mlx_align.engine.previewing import told
from mlx_align.errors import AlignError

Say = Callable[[dict[str, Any]], None]
CHUNK = 2**20
"""Bytes that are written at once, in place of ten times as many: so progress and a stop are soon seen."""
INTERVAL = 0.25
"""Seconds between two messages of how far it is."""


def main() -> int:
    """Fetch what the command line names; returns the exit code."""
    os.environ["HF_HUB_DISABLE_XET"] = "1"  # it works outside Python, where nothing here could stop it
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)  # whatever a library prints is not for the reader

        def say(message: dict[str, Any]) -> None:
            stdout.write(json.dumps(message) + "\n")
            stdout.flush()

        try:
            name, revision = (*sys.argv[1:], None)[:2]
            serve(str(name), revision, sys.stdin, say)
        except AlignError as error:
            say({"type": "failed", "error": told(error), "code": error.exit_code})
            return error.exit_code
        except KeyboardInterrupt:
            say({"type": "stopped"})
        except BrokenPipeError:  # nobody listens any more
            return 1
    return 0


def serve(name: str, revision: str | None, requests: Iterable[str], say: Say) -> None:
    """Say what there is to fetch, wait for a line, and fetch it.

    Args:
        name: owner/name.
        revision: None for the newest.
        requests: a line to begin; their end stops the work.
        say: sends a message.

    Raises:
        AlignError: the hub has no such model, or cannot be reached, or there is no room.
        KeyboardInterrupt: it was stopped.
    """
    from huggingface_hub import constants

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    parcel = hub.parcel(name, revision)
    facts = {"size": parcel.size, "free": parcel.free, "folder": str(parcel.folder)}
    say({"type": "parcel", "files": len(parcel.files), **facts})
    lines = iter(requests)
    if next(lines, None) is None:
        return
    stopped, done = threading.Event(), threading.Event()

    def listen() -> None:
        for _ in lines:
            continue
        stopped.set()

    def moved() -> None:
        if stopped.is_set():
            raise KeyboardInterrupt

    threading.Thread(target=listen, daemon=True).start()
    blobs = parcel.folder / f"models--{name.replace('/', '--')}" / "blobs"
    teller = threading.Thread(target=_tell, args=(blobs, parcel.size, done, say))
    teller.start()
    try:
        source = hub.fetch(name, revision, moved)
    finally:
        done.set()
        teller.join()
    say({"type": "done", "folder": str(source.folder)})


def _tell(blobs: Path, size: int, done: threading.Event, say: Say) -> None:
    """Say how many bytes have come, until it is done."""
    before = _bytes(blobs)
    while True:
        ended = done.wait(INTERVAL)
        say({"type": "progress", "done": min(size, max(0, _bytes(blobs) - before)), "total": size})
        if ended:
            return


def _bytes(blobs: Path) -> int:
    """Bytes of all files in the cache of a model, those that are not whole included."""
    total = 0
    try:
        for entry in os.scandir(blobs):
            total += entry.stat().st_size
    except OSError:  # it is not there yet, or a file got its name just now
        return total
    return total


if __name__ == "__main__":
    sys.exit(main())
