"""The chat engine behind a screen: opened, asked and stopped without the screen ever waiting."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlx_align import methods
from mlx_align.chat import Chat, Done, Hello, Turn, Voice
from mlx_align.config import RunConfig
from mlx_align.errors import AlignError
from mlx_align.runs import RunDirectory
from mlx_align.runs.atomic import write_bytes
from mlx_align_cli.saved import COPIES, PAIRS
from mlx_align_tui.live.adapters import Adapter, adapters_of, pick

INTERVAL = 0.03
"""Seconds of an answer that are shown at once: a terminal draws no faster."""


@dataclass(frozen=True)
class Manner:
    """How to answer; see `Chat.ask`."""

    max_tokens: int
    temperature: float
    seed: int


class Partner:
    """A chat engine, or none yet. `open` and `answer` belong to worker threads; the others wait for nothing,
    not even for an engine that hangs.

    Attributes:
        adapter: the one that is loaded, once it is known.
    """

    adapter: Adapter | None = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chat: Chat | None = None
        self._stopped = self._closed = False

    def open(self, run: RunDirectory, name: str | None = None) -> Hello:
        """Load a run's adapter and its base in a process of their own; one that is there already ends.

        Args:
            run: the run.
            name: the adapter's name; None: the usual one, see `runs.chosen.adapter_of`.

        Raises:
            AlignError: there is no adapter, or it cannot be loaded, or `close` came meanwhile.
        """
        from mlx_align.runs.chosen import model_of  # the model may have to be fetched

        if (before := self._let_go()) is not None:
            before.kill()  # its memory is needed
        self.adapter = pick(adapters_of(run), name)
        return Chat(model_of(run), self.adapter.folder, run.config().backend, begun=self._begin).hello

    def _begin(self, chat: Chat) -> None:
        with self._lock:
            if self._closed:
                raise AlignError("the chat was closed")
            self._chat = chat

    def begin(self) -> None:
        """Let the next answers come; to be called before the first of them is asked for."""
        self._stopped = False

    def answer(
        self,
        order: Sequence[Voice],
        messages: Sequence[Turn],
        manner: Manner,
        told: Callable[[int, str | Done], None],
    ) -> AlignError | None:
        """Ask several voices the same, one after the other, until one fails or `stop` comes.

        Args:
            order: the voices.
            messages: the conversation, which ends with the user.
            manner: how to answer.
            told: given a voice's place, and more of its text or the whole answer.

        Returns:
            what went wrong.
        """
        try:
            for place, who in enumerate(order):
                done = self._ask(who, messages, manner, partial(told, place))
                if done is None:
                    break
                told(place, done)
        except AlignError as error:
            return error
        except (OSError, ValueError) as error:  # its pipes were closed, because `close` came
            return AlignError(f"the chat engine is gone: {error}")
        return None

    def _ask(
        self, who: Voice, messages: Sequence[Turn], manner: Manner, told: Callable[[str], None]
    ) -> Done | None:
        """One voice's whole answer; None if `stop` came before it was asked for."""
        with self._lock:
            chat = None if self._stopped else self._chat
        if chat is None:
            return None
        coming = chat.ask(  # outside the lock: an engine that hangs takes no more than its pipe holds
            who, messages, max_tokens=manner.max_tokens, temperature=manner.temperature, seed=manner.seed
        )
        if self._stopped:  # it came just before the question had gone out
            chat.cancel()
        text, shown = "", 0.0
        for said in coming:
            if isinstance(said, Done):
                return said
            text += said.text
            if (now := time.monotonic()) - shown >= INTERVAL:
                told(text)
                shown = now
        raise AlignError("the answer has no end")

    @property
    def stopped(self) -> bool:
        """Whether the answer that is being given was asked to stop."""
        return self._stopped

    def stop(self) -> None:
        """Stop the answer that is being given, and ask for none that would follow it."""
        with self._lock:
            self._stopped, chat = True, self._chat
        if chat is not None:  # in a thread: an engine that hangs reads nothing
            threading.Thread(target=_cancel, args=[chat], daemon=True).start()

    def close(self) -> None:
        """End the engine for good, loading or not."""
        self._closed = True
        self.end()

    def end(self) -> None:
        """End the engine; another can be opened."""
        if (chat := self._let_go()) is not None:
            chat.abandon()

    def _let_go(self) -> Chat | None:
        with self._lock:
            chat, self._chat = self._chat, None
        return chat


def _cancel(chat: Chat) -> None:
    with suppress(AlignError, OSError, ValueError):  # it has ended, and whoever waits for the answer is told
        chat.cancel()


def snapshot(run: RunDirectory) -> Path:
    """Copy the pairs that were kept with a run to beside all runs, into a file that nothing is added to.

    A run is resumed only on the data that it began with, also when more pairs were kept since, or the run
    that has them was deleted. The same pairs make the same file.

    Args:
        run: the run; it has pairs.

    Raises:
        OSError: they cannot be read, or the copy cannot be written.
    """
    pairs = (run.path / PAIRS).read_bytes()
    copy = run.path.parent / COPIES / f"{run.name}-{hashlib.sha256(pairs).hexdigest()[:8]}.jsonl"
    copy.parent.mkdir(exist_ok=True)
    write_bytes(copy, pairs)
    return copy


def going_on(config: RunConfig, adapter: Path, pairs: Path) -> RunConfig:
    """A run that trains an adapter further on pairs.

    Args:
        config: of the run that the adapter comes from; its method stays if it learns from pairs.
        adapter: the adapter's folder.
        pairs: a .jsonl file.
    """
    same = methods.get(config.method.name).rows == "pair"
    return RunConfig.model_validate(
        {
            "model": config.model.model_dump(),
            "backend": config.backend.model_dump(),
            "adapter": {**config.adapter.model_dump(), "start": str(adapter)},
            "data": {**config.data.model_dump(), "path": str(pairs)},
            "method": config.method.model_dump() if same else {"name": "orpo"},
        }
    )
