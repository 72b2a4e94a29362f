"""Exports in processes of their own: started, listened to, cancelled; and those that a run has already."""

from __future__ import annotations

import json
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
from mlx_align_tui.live import reaping
from mlx_align_tui.live.programs import PROGRAM, error_told, start

GRACE = 5.0
"""Seconds that a cancelled export has to take away what it wrote."""
MANIFEST = "mlx-align.json"
"""What lies in an export's folder, or beside its file; as in `engine.exporting.manifest`."""

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
                raise InterruptedRunError("it was cancelled, and nothing is left of it")
            if code and not failed:
                log.seek(0)
                raise error_told(code, log.read())

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


@dataclass(frozen=True)
class Existing:
    """An export that is there.

    Attributes:
        path: the folder or file.
        target: where it was to go.
        size: its bytes.
        verification: as `Verification.json` made it; what came of it when it was made.
    """

    path: Path
    target: str
    size: int
    verification: Message


def existing(run: RunDirectory) -> list[Existing]:
    """The exports in a run's folder, by name."""
    found = []
    for manifest in sorted((run.path / "exports").glob(f"*/{MANIFEST}")):
        found.append(_existing(manifest.parent, manifest))
    for manifest in sorted((run.path / "exports").glob(f"*.{MANIFEST}")):
        found.append(_existing(manifest.with_name(manifest.name.removesuffix(f".{MANIFEST}")), manifest))
    return [one for one in found if one is not None]


def _existing(path: Path, manifest: Path) -> Existing | None:
    try:
        files = [item for item in path.rglob("*") if item.is_file()] if path.is_dir() else [path]
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in files)
        return Existing(path, str(facts["target"]), size, dict(facts["verification"]))
    except (OSError, ValueError, KeyError, TypeError):  # not whole, or being removed just now
        return None
