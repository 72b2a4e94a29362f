"""What this machine has and lacks, as `mlx-align doctor` says, in another process: it loads frameworks."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from mlx_align.errors import AlignError
from mlx_align_tui.live.programs import PROGRAM, start


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `state` is ok, note or missing, and `advice` says what to do then."""

    name: str
    state: str
    value: str
    advice: str | None = None


class Examination:
    """Examines this machine, once at a time.

    Args:
        root: the folder that holds the runs.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def ask(self) -> list[Finding]:
        """Look; it takes as long as a framework takes to load. Nothing once it was closed.

        Raises:
            AlignError: the process could not say what there is.
        """
        with self._lock:
            if self._closed:
                return []
            process = self._process = start(PROGRAM, ["doctor", "--json", "--runs-dir", str(self._root)])
        out, said = process.communicate()
        if self._closed:
            return []
        try:
            return [Finding(**found) for found in json.loads(out)]
        except (ValueError, TypeError):
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            raise AlignError(
                f"this machine could not be examined: {last[:200]}", hint="Try `mlx-align doctor`."
            ) from None

    def close(self) -> None:
        """End it, and begin nothing new."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
