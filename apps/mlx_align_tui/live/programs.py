"""Programs of ours that work for a screen in processes of their own: plans of memory, previews of data.

They load what this program must not: a framework, and the tokenizer's library.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from mlx_align.config import MethodConfig, ModelConfig
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


class Asking:
    """Asks a program of ours one question at a time; a new one ends the work on the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def answer(
        self, program: Sequence[str], arguments: Sequence[str], *, offline: bool = False
    ) -> tuple[int, str, str] | None:
        """Run a program to its end.

        Args:
            program: what Python runs.
            arguments: of the program.
            offline: whether it must not reach the hub.

        Returns:
            its exit code and what it wrote to stdout and stderr; None where another question or `close` came.
        """
        with self._lock:
            self._end()
            if self._closed:
                return None
            process = self._process = start(program, arguments, offline=offline)
        out, said = process.communicate()
        with self._lock:
            if self._process is not process:
                return None
            self._process = None
        return process.returncode, out, said

    def close(self) -> None:
        """End what is under way, and begin nothing new."""
        with self._lock:
            self._closed = True
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


class Planning(Asking):
    """Plans one run at a time."""

    def ask(self, arguments: Sequence[str]) -> Fit | None:
        """Plan a run, without reaching the hub.

        Args:
            arguments: of `mlx-align`, beginning with "plan".

        Returns:
            the plan; None where another question came meanwhile.

        Raises:
            AlignError: what the plan could not be made for, or the program wrote something else.
        """
        answer = self.answer(PROGRAM, [*arguments, "--json"], offline=True)
        if answer is None:
            return None
        code, out, said = answer
        if code in (0, WontFitError.exit_code) and out.strip():
            return _fit(_read(out))
        raise error_told(code, said)


class Talking:
    """A process that says JSON lines and is told lines. It is started by whoever begins to listen to it.

    Args:
        module: what it runs.
        arguments: of the module.
        offline: whether it must not reach the hub.
    """

    def __init__(self, module: str, arguments: Sequence[str], *, offline: bool) -> None:
        self._start = partial(start, ["-m", module], arguments, offline=offline, talk=True)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends; nothing if it was closed before it was started.

        Raises:
            AlignError: it said that it failed, it died, or it said something that is no JSON.
            OSError: it cannot be started.
        """
        with self._lock:
            if self._closed:
                return
            process = self._process = self._start()
        with process:  # waits for it and closes its pipes
            for line in cast("IO[str]", process.stdout):
                if not line.endswith("\n"):  # it was killed while it spoke
                    break
                message = _read(line)
                if message["type"] == "failed":
                    raise error_class(message["code"])(**message["error"])
                yield message
            said = cast("IO[str]", process.stderr).read()
        if process.returncode and not self._closed:
            raise error_told(process.returncode, said)

    def tell(self, line: str) -> None:
        """Tell it a line, once it has said something."""
        requests = cast("IO[str]", cast("subprocess.Popen[str]", self._process).stdin)
        try:
            requests.write(f"{line}\n")
            requests.flush()
        except (OSError, ValueError):  # it has ended, and `messages` says why
            return

    def hang_up(self) -> None:
        """Tell it no more, and let it end by itself."""
        with self._lock:
            if self._process is None:
                self._closed = True
                return
        with suppress(OSError):
            cast("IO[str]", self._process.stdin).close()

    def close(self) -> None:
        """End it; that is no failure."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()


class Preview(Talking):
    """A preview of data that is under way or done; see `mlx_align.engine.previewing`.

    Args:
        path: a .jsonl file, or a folder with train.jsonl.
        model: whose tokenizer reads it; it must be on this disk.
        method: the method that is to learn from it, with its hyperparameters.
    """

    def __init__(self, path: Path, model: ModelConfig, method: MethodConfig) -> None:
        arguments = [str(path), model.model_dump_json(), method.model_dump_json()]
        super().__init__("mlx_align.engine.previewing", arguments, offline=True)

    def ask(self, index: int) -> None:
        """Ask for a row, counted from 0."""
        self.tell(str(index))


PROGRAM = ["-c", "from mlx_align_cli.main import main; main()"]
"""`mlx-align`, with this very Python."""


def start(
    program: Sequence[str],
    arguments: Sequence[str],
    *,
    offline: bool = False,
    talk: bool = False,
    log: IO[str] | None = None,
) -> subprocess.Popen[str]:
    """Start a program of ours in a session of its own: a Ctrl-C in this terminal is not meant for it.

    Args:
        program: what Python runs.
        arguments: of the program.
        offline: whether it must not reach the hub.
        talk: whether it is told lines.
        log: takes its stderr; without one that is a pipe, for a program that says a few lines before it ends.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return subprocess.Popen(
        [sys.executable, "-P", *program, *arguments],
        stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log or subprocess.PIPE,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def _read(text: str) -> dict[str, Any]:
    """JSON that a program of ours wrote.

    Raises:
        AlignError: there is a line that is no part of it, such as one that a library printed.
    """
    try:
        found: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        message = f"the program wrote a line that is no JSON: {line[:200]}"
        raise AlignError(message, hint="Please report it, with that line.") from None
    return found


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
    """The error that a program of ours told on stderr, or that a signal ended it (a negative code)."""
    found: dict[str, str] = {}
    for line in said[-LAST_WORDS:].splitlines():
        for key, mark in (("message", "error: "), ("where", "  where: "), ("hint", "  next:  ")):
            if line.startswith(mark):
                found[key] = line.removeprefix(mark)
    if "message" not in found and code < 0:
        return AlignError(
            f"the program was killed by signal {-code}",
            hint="Where memory runs out, the system kills what takes most of it.",
        )
    if "message" not in found:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        return AlignError(f"the program ended with code {code}: {last[:200]}")
    return error_class(code)(found["message"], where=found.get("where"), hint=found.get("hint"))
