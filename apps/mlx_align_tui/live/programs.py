"""Work that other processes do for a screen: plans of memory, and previews of data.

They load what this program must not: a framework, and the tokenizer's library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from mlx_align.errors import AlignError, WontFitError, error_class

LAST_WORDS = 2000
"""Characters of what a process said on stderr that are looked at when it failed."""


@dataclass(frozen=True)
class Fit:
    """What `mlx-align plan` said: bytes by part, whether they are there, and what to change if not."""

    verdict: str
    total: int
    available: int
    parts: dict[str, int]
    moment: str
    remedy: str = ""
    settings: dict[str, Any] | None = None


class Planning:
    """Plans one run at a time; a new question ends the work on the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def ask(self, arguments: Sequence[str], *, fetch: bool = False) -> Fit | None:
        """Plan a run.

        Args:
            arguments: of `mlx-align`, beginning with "plan".
            fetch: whether a model that is not on this disk may be fetched for it.

        Returns:
            the plan; None where another question came meanwhile.

        Raises:
            AlignError: what the plan could not be made for.
        """
        with self._lock:
            self._end()
            if self._closed:
                return None
            process = self._process = _start(PROGRAM, [*arguments, "--json"], offline=not fetch)
        out, said = process.communicate()
        with self._lock:
            if self._process is not process:
                return None
            self._process = None
        if process.returncode in (0, WontFitError.exit_code) and out.strip():
            return _fit(json.loads(out))
        raise error_told(process.returncode, said)

    def close(self) -> None:
        """End what is under way, and begin nothing new."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


class Preview:
    """A preview of data that is under way or done; see `mlx_align.engine.previewing`.

    Args:
        path: a .jsonl file, or a folder with train.jsonl.
        model: whose tokenizer reads it; it must be on this disk.
        method: the method that is to learn from it.
    """

    def __init__(self, path: Path, model: str, method: str) -> None:
        module = ["-m", "mlx_align.engine.previewing"]
        self._process = _start(module, [str(path), model, method], offline=True, talk=True)

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends.

        Raises:
            AlignError: the data or the model cannot be read, or the process died.
        """
        process = self._process
        with process:  # waits for it and closes its pipes
            for line in cast("IO[str]", process.stdout):
                message: dict[str, Any] = json.loads(line)
                if message["type"] == "failed":
                    raise error_class(message["code"])(**message["error"])
                yield message
            said = cast("IO[str]", process.stderr).read()
        if process.returncode > 0:
            raise error_told(process.returncode, said)

    def ask(self, index: int) -> None:
        """Ask for a row, counted from 0."""
        requests = cast("IO[str]", self._process.stdin)
        try:
            requests.write(f"{index}\n")
            requests.flush()
        except (OSError, ValueError):  # it has ended, and `messages` says why
            return

    def close(self) -> None:
        """End it."""
        self._process.kill()


PROGRAM = ["-c", "from mlx_align_cli.main import main; main()"]


def _start(
    program: Sequence[str], arguments: Sequence[str], *, offline: bool, talk: bool = False
) -> subprocess.Popen[str]:
    """Start Python with a program. Its stderr is read at the end only, and has but a few lines."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return subprocess.Popen(
        [sys.executable, "-P", *program, *arguments],
        stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def _fit(told: dict[str, Any]) -> Fit:
    advice = told.get("advice") or {}
    return Fit(
        told["verdict"],
        told["total"],
        told["available"],
        {part: count for part, count in told["parts"].items() if count},
        told["moment"],
        advice.get("text") or "",
        advice.get("settings"),
    )


def error_told(code: int, said: str) -> AlignError:
    """The error that a program of ours told on stderr."""
    found: dict[str, str] = {}
    for line in said[-LAST_WORDS:].splitlines():
        for key, mark in (("message", "error: "), ("where", "  where: "), ("hint", "  next:  ")):
            if line.startswith(mark):
                found[key] = line.removeprefix(mark)
    if "message" not in found:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        return AlignError(f"the program ended with code {code}: {last[:200]}")
    return error_class(code)(found["message"], where=found.get("where"), hint=found.get("hint"))
