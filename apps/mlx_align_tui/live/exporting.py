"""Exports in processes of their own: started, listened to, cancelled; and those that a run has already."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from mlx_align.errors import InterruptedRunError
from mlx_align.runs import RunDirectory
from mlx_align_cli.saved import MANIFEST, exports_of
from mlx_align_tui.live import reaping
from mlx_align_tui.live.programs import PROGRAM, error_told, start

GRACE = 5.0
"""Seconds that a cancelled export has to take away what it wrote."""

Message = dict[str, Any]


class Exporting:
    """Runs a program of ours once, on a worker thread; `cancel` may come from any, before it began too.

    Args:
        arguments: of `mlx-align`, which make it say JSON.
        folder: where it writes; of an export that had to be killed nothing is left there.
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self._arguments, self._folder = arguments, folder
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._reaper: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(self, told: Callable[[Message], None]) -> None:
        """Run it until it ends.

        Args:
            told: given each message.

        Raises:
            InterruptedRunError: it was cancelled.
            AlignError: it failed, and no message said so.
        """
        before = self._made()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            process = self._start(log)
            failed = False
            with cast("IO[str]", process.stdout) as lines:
                for line in lines:
                    if line.startswith("{"):
                        message: Message = json.loads(line)
                        failed = failed or message.get("type") == "failed"
                        told(message)
            code = process.wait()
            self._end()
            if code == -signal.SIGKILL:
                reaping.clear(self._folder, process.pid)
            if self._cancelled and code:  # else it was done before it was told
                raise InterruptedRunError(_cancelled(self._made() - before))
            if code and not failed:
                log.seek(0)
                raise error_told(code, log.read())

    def _made(self) -> set[tuple[str, int]]:
        """What lies in the folder under its name, and which of that name it is."""
        if not self._folder.is_dir():
            return set()
        with os.scandir(self._folder) as items:
            return {(item.name, item.inode()) for item in items if not item.name.startswith(".")}

    def _start(self, log: IO[str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._cancelled:
                raise InterruptedRunError("it was cancelled before it began")
            # A pipe that nobody reads would stop an upload's progress bar: hence a file.
            process = self._process = start(PROGRAM, self._arguments, log=log)
            return process

    def _end(self) -> None:
        """It has ended."""
        with self._lock:
            reaper, self._process, self._reaper = self._reaper, None, None
        if reaper is not None:
            reaping.dismiss(reaper)

    def cancel(self) -> None:
        """Have the program take away what it wrote and end; one that does not is killed soon, here or not."""
        with self._lock:
            process, self._cancelled = self._process, True
            if process is not None and self._reaper is None:
                process.send_signal(signal.SIGINT)
                self._reaper = reaping.begin(process.pid, GRACE, self._folder)


def _cancelled(left: set[tuple[str, int]]) -> str:
    """What became of an export that was cancelled: one that was made, and not yet uploaded, stays."""
    names = sorted(name for name, _ in left if not name.endswith(MANIFEST))
    if not names:
        return "it was cancelled, and nothing is left of it"
    return f"it was cancelled after it was made: {', '.join(names)} stays among the exports"


@dataclass(frozen=True)
class Existing:
    """An export that is there.

    Attributes:
        path: the folder or file.
        target: where it was to go.
        step: the updates that its adapter has seen.
        size: its bytes.
        verification: as `Verification.json` made it; what came of it when it was made.
    """

    path: Path
    target: str
    step: int
    size: int
    verification: Message


def existing(run: RunDirectory) -> list[Existing]:
    """The exports in a run's folder, by name."""
    found = [_existing(path, manifest) for path, manifest in exports_of(run).items()]
    return [one for one in found if one is not None]


def _existing(path: Path, manifest: Path) -> Existing | None:
    try:
        files = [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [path]
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in files)
        target, step = str(facts["target"]), int(facts["provenance"]["step"])
        return Existing(path, target, step, size, dict(facts["verification"]))
    except (OSError, ValueError, KeyError, TypeError):  # not whole, or being removed just now
        return None
