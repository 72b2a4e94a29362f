"""Exports in processes of their own: started, listened to, cancelled; and those that a run has already."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from mlx_align.errors import InterruptedRunError
from mlx_align.runs import RunDirectory
from mlx_align_tui.live.programs import PROGRAM, error_told, start

GRACE = 5.0
"""Seconds that a cancelled export has to take away what it wrote."""
MANIFEST = "mlx-align.json"
"""What lies in an export's folder, or beside its file; as in `engine.exporting.manifest`."""

Message = dict[str, Any]


class Exporting:
    """Runs one program of ours at a time, on a worker thread; `cancel` may come from any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = False

    def run(self, arguments: Sequence[str], told: Callable[[Message], None], folder: Path) -> None:
        """Run `mlx-align` with arguments that make it say JSON, until it ends.

        Args:
            arguments: of `mlx-align`.
            told: given each message.
            folder: where it writes; of an export that had to be killed nothing is left there.

        Raises:
            InterruptedRunError: it was cancelled.
            AlignError: it failed, and no message said so.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            process = self._start(arguments, log)
            failed = False
            with cast("IO[str]", process.stdout) as lines:
                for line in lines:
                    if line.startswith("{"):
                        message: Message = json.loads(line)
                        failed = failed or message.get("type") == "failed"
                        told(message)
            code = process.wait()
            with self._lock:
                self._process = None
            if code == -signal.SIGKILL:
                _clear(folder, process.pid)
            if self._cancelled:
                raise InterruptedRunError("it was cancelled, and nothing is left of it")
            if code and not failed:
                log.seek(0)
                raise error_told(code, log.read())

    def _start(self, arguments: Sequence[str], log: IO[str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._cancelled:
                raise InterruptedRunError("it was cancelled before it began")
            # A pipe that nobody reads would stop an upload's progress bar: hence a file.
            process = self._process = start(PROGRAM, arguments, log=log)
            return process

    def cancel(self) -> None:
        """Have the program take away what it wrote and end; one that does not is killed soon."""
        with self._lock:
            process, self._cancelled = self._process, True
            if process is not None:
                process.send_signal(signal.SIGINT)
                killer = threading.Timer(GRACE, _kill, [process])
                killer.daemon = True
                killer.start()

    def renew(self) -> None:
        """Forget a cancel, so that the next program may run."""
        self._cancelled = False


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a program with all that it has started, if it is still there."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _clear(folder: Path, process: int) -> None:
    """Remove what a killed export was writing, but not an older export that it had put aside."""
    for item in folder.glob(f".*-{process}-*"):
        if not item.name.endswith("-old"):
            shutil.rmtree(item, ignore_errors=True)


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
