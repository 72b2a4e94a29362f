"""llama.cpp as a reader of what was exported: on the CPU, with a cache in float32."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from mlx_align import installing
from mlx_align.errors import AlignError
from mlx_align.export.llama_worker import installed

PATIENCE = 1800.0
"""Seconds until a process that does not answer is ended: a large model is read from disk meanwhile."""

COMPLAINT = re.compile(r" E |GGML_ASSERT|Error:")
"""A line of llama.cpp's log that says what went wrong."""
HINT = "llama.cpp is older than this architecture, or the adapter is for another model."
"""Why files are not loaded, if they are not damaged."""
MOST = 600
"""Characters of its complaints that are shown."""


def available() -> str | None:
    """The library that brings llama.cpp ("xllamacpp" or "llama_cpp"); None if neither is installed."""
    return installed()


def _threads() -> int:
    """One thread a core, unless OMP_NUM_THREADS asks for fewer."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else os.cpu_count() or 1


class LlamaReader:
    """A GGUF model, with or without a GGUF adapter, in llama.cpp.

    It lives in a process of its own until `close()`, since llama.cpp may end the process that it is in.

    Args:
        model: the model's file.
        adapter: an adapter's file for it.
        context: the most tokens of a prompt and its answer together.

    Raises:
        AlignError: no library is installed, or llama.cpp does not load the files.
    """

    name = "llama.cpp"

    def __init__(self, model: Path, adapter: Path | None = None, *, context: int = 1024) -> None:
        self._file, self._loaded = adapter or model, False
        facts = {
            "library": self._library(),
            "model": str(model),
            "adapter": None if adapter is None else str(adapter),
            "context": context,
            "threads": _threads(),
        }
        self._log, self._log_seen = tempfile.TemporaryFile(), 0  # noqa: SIM115  (`close` closes it)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlx_align.export.llama_worker", json.dumps(facts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # or it starts a debugger before it aborts
        )
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _library() -> str:
        """The installed library.

        Raises:
            AlignError: none is.
        """
        library = available()
        if library is None:
            raise AlignError("llama.cpp is not installed", hint=f"Install it: {installing.command('gguf')}.")
        return library

    def next_logps(self, prompts: Sequence[Sequence[int]], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Log-probabilities of given tokens as the next one, before any sampling option.

        Args:
            prompts: N prompts as token ids, each of one token or more.
            tokens: (N, K), the ids that are asked for after each.

        Returns:
            (N, K); -inf for what is not in the vocabulary.

        Raises:
            AlignError: llama.cpp ended, refused a prompt or did not answer.
        """
        rows = [
            self._ask({"do": "logps", "ids": list(map(int, prompt)), "tokens": row.tolist()})
            for prompt, row in zip(prompts, tokens, strict=True)
        ]
        return np.array(rows, dtype=np.float32).reshape(tokens.shape)

    def encode(self, text: str) -> list[int]:
        """A text's ids by the tokeniser in the file: special tokens are recognised, none is added."""
        ids: list[int] = self._ask({"do": "encode", "text": text})
        return ids

    def complete(self, ids: Sequence[int], limit: int) -> str:
        """The greedy continuation of a prompt, at most `limit` tokens."""
        return str(self._ask({"do": "complete", "ids": list(map(int, ids)), "limit": limit}))

    def answer(self, messages: Sequence[Mapping[str, str]], limit: int) -> str:
        """The greedy answer to messages {role, content}, by the chat template in the file.

        Args:
            messages: a conversation whose last turn is the user's.
            limit: the most tokens of the answer.
        """
        return str(
            self._ask({"do": "chat", "messages": [dict(message) for message in messages], "limit": limit})
        )

    def close(self) -> None:
        """End the process."""
        self._process.kill()  # it writes nothing that could be lost
        self._process.communicate()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        """A request's value; errors as in `_read`."""
        self._log_seen = os.fstat(self._log.fileno()).st_size
        try:
            requests = cast("IO[str]", self._process.stdin)
            requests.write(json.dumps(request) + "\n")
            requests.flush()
        except BrokenPipeError:  # it has ended, and `_read` says why
            pass
        return self._read()

    def _read(self) -> Any:
        """The next answer's value; the first says that the files are loaded.

        Raises:
            AlignError: it is an error, or the process ended, or did not answer in time.
        """
        timer = threading.Timer(PATIENCE, self._process.kill)
        timer.start()
        try:
            line = cast("IO[str]", self._process.stdout).readline()
            message: dict[str, Any] = json.loads(line) if line else {"error": self._ending()}
            if "error" in message and not self._loaded:
                self._process.wait()  # then its log is whole
        finally:
            timer.cancel()
        if "error" in message:
            what = "does not answer" if self._loaded else "cannot load this file"
            raise AlignError(
                f"llama.cpp {what}: {message['error']}{self._complaints()}",
                where=str(self._file),
                hint=None if self._loaded else HINT,
            )
        self._loaded = True
        return message["value"]

    def _ending(self) -> str:
        """Why there is no answer."""
        code = self._process.wait()
        return f"its process ended (exit code {code}) or gave no answer in {PATIENCE:.0f} s"

    def _complaints(self) -> str:
        """The first errors that llama.cpp printed since it was asked: what comes later follows from them."""
        size = os.fstat(self._log.fileno()).st_size
        said = os.pread(
            self._log.fileno(), size - self._log_seen, self._log_seen
        )  # the place is the process's
        lines = said.decode("utf-8", errors="replace").splitlines()
        return "".join(f"\n  {line.strip()}" for line in lines if COMPLAINT.search(line))[:MOST]
