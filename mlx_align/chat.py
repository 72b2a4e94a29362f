"""Talking to a model: the client's side of `mlx_align.engine.chat`, for any front end.

with Chat(model_folder, adapter_folder) as chat:
    for message in chat.ask("tuned", [Turn(role="user", content="Hello")], max_tokens=64):
        ...  # tokens, and at last what is done
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from mlx_align.config import BackendConfig
from mlx_align.engine.chat.protocol import (
    Ask,
    Cancel,
    Done,
    Failed,
    Hello,
    Open,
    Reply,
    Request,
    Token,
    Turn,
    Voice,
    encoded,
    reply,
)
from mlx_align.errors import AlignError, DeviceAbortError, UsageError

GRACE = 5.0
"""Seconds in which an engine may end by itself; it holds nothing that could be lost."""
LAST_WORDS = 4096
"""Bytes of the engine's log that are looked at when it has died."""


class Chat:
    """A chat engine's process. One answer at a time; `cancel` and `close` may come from any thread.

    Args:
        model: a model folder.
        adapter: an adapter folder in mlx-lm's format, or None for the bare model.
        backend: the framework and the device.
        begun: given this object once its process exists, for who may want to `kill` it while it loads.

    Raises:
        AlignError: model or adapter cannot be loaded, or the engine died.

    Attributes:
        hello: what the engine has loaded, and who can be asked.
    """

    hello: Hello

    def __init__(
        self,
        model: Path,
        adapter: Path | None,
        backend: BackendConfig | None = None,
        *,
        begun: Callable[[Chat], None] = lambda chat: None,
    ) -> None:
        self._sending, self._asked, self._ended = threading.Lock(), 0, False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (`kill` closes it)
        self._process = subprocess.Popen(
            # -P: the folder a person works in is not a place to import from.
            [sys.executable, "-P", "-m", "mlx_align.engine.chat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the front end, which then says what is to be done
        )
        self._requests = cast("io.RawIOBase", self._process.stdin)
        self._replies = io.BufferedReader(cast("io.RawIOBase", self._process.stdout))
        try:
            begun(self)
            self.hello = self._greeting(model, adapter, backend or BackendConfig())
        except BaseException:
            self.kill()
            raise

    def _greeting(self, model: Path, adapter: Path | None, backend: BackendConfig) -> Hello:
        folder = None if adapter is None else str(adapter.resolve())
        self._send(Open(model=str(model.resolve()), adapter=folder, backend=backend))
        said = self._next()
        if isinstance(said, Failed):
            raise said.error()
        if not isinstance(said, Hello):
            raise AlignError(f"the chat engine began with '{said.type}' instead of a greeting")
        return said

    def ask(
        self,
        who: Voice,
        messages: Sequence[Turn],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[Token | Done]:
        """Ask at once; what is returned yields the tokens as they come and ends with Done.

        Args:
            who: one of `hello.voices`.
            messages: the conversation, which ends with the user.
            max_tokens: the longest answer.
            temperature: 0 is greedy.
            top_p: nucleus sampling; 1 is off.
            seed: seeds the sampling.

        Raises:
            AlignError: it cannot be answered, or the engine died; raised when its reply is read.
        """
        self._asked += 1
        ask = Ask(
            id=self._asked,
            who=who,
            messages=tuple(messages),
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        self._send(ask)
        return self._answer(ask.id)

    def _answer(self, number: int) -> Iterator[Token | Done]:
        while True:
            said = self._next()
            if isinstance(said, Failed) and said.id in (None, number):
                raise said.error()
            if isinstance(said, Token | Done) and said.id == number:  # not what is left of an earlier answer
                yield said
                if isinstance(said, Done):
                    return

    def cancel(self) -> None:
        """Stop the answer that was asked for last; its Done still comes."""
        self._send(Cancel(id=self._asked))

    def close(self) -> None:
        """End the engine; harmless when repeated."""
        self._requests.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE)
        self.kill()

    def kill(self) -> None:
        """End the engine at once, and wait until it has ended; harmless when repeated."""
        self._ended = True
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._replies, self._log):
            pipe.close()

    def abandon(self) -> None:
        """End the engine at once and wait for nothing: one that hangs in its device may take long to end."""
        self._ended = True
        self._process.kill()  # here, because a program that ends takes its threads with it
        threading.Thread(target=self.kill, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def _send(self, request: Request) -> None:
        line = encoded(request)
        with self._sending:
            try:
                while line:
                    line = line[self._requests.write(line) or 0 :]
            except (BrokenPipeError, ValueError):  # ValueError: it was closed
                raise self._died() from None

    def _next(self) -> Reply:
        """The next reply.

        Raises:
            AlignError: none comes any more.
        """
        line = self._replies.readline()
        if not line.endswith(b"\n"):
            raise self._died()
        try:
            return reply(line)
        except UsageError as error:
            raise AlignError(error.message, where=error.where) from None

    def _died(self) -> AlignError:
        """The error for an engine that does not answer any more."""
        if self._ended:
            return AlignError("the chat engine has been closed")
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LAST_WORDS))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        hint = f"The last it said: {lines[-1]}" if lines else None
        if code < 0:
            name = signal.Signals(-code).name
            return DeviceAbortError(f"the chat engine was ended by {name}", hint=hint)
        return AlignError(f"the chat engine ended with exit code {code}", hint=hint)


__all__ = ["Chat", "Done", "Hello", "Token", "Turn", "Voice"]
