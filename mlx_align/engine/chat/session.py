"""A loaded model and its answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_align import backends
from mlx_align.backends.base import Generation, Sampling
from mlx_align.data import ChatTokenizer, Message, render_prompt
from mlx_align.engine.chat import voices
from mlx_align.engine.chat.protocol import Ask, Done, Hello, Open, Reply, Token
from mlx_align.engine.chat.streaming import GrowingText
from mlx_align.engine.chat.voices import Voices
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.errors import DataError, UsageError

Say = Callable[[Reply], None]


@dataclass(frozen=True)
class Session:
    """What answers.

    Attributes:
        hello: what it is.
        voices: the model, with its adapter and without.
        tokenizer: the model's.
    """

    hello: Hello
    voices: Voices
    tokenizer: ChatTokenizer

    @classmethod
    def load(cls, opening: Open) -> Session:
        """Load what is asked for.

        Raises:
            UsageError: model or adapter cannot be used.
        """
        folder = Path(opening.model)
        tokenizer = load_tokenizer(folder)
        backend = backends.create(opening.backend)
        found = voices.load(backend, folder, Path(opening.adapter) if opening.adapter else None)
        hello = Hello(
            model=opening.model,
            adapter=opening.adapter,
            voices=found.names,
            device=backend.device,
            notes=found.notes,
            context=_context(folder),
        )
        return cls(hello, found, tokenizer)

    def answer(self, ask: Ask, say: Say, cancelled: Callable[[], bool]) -> None:
        """Say the answer's tokens while they come, and then that it is done.

        Args:
            ask: the conversation and who continues it.
            say: sends a reply.
            cancelled: asked after each token whether to stop.

        Raises:
            UsageError: this voice cannot be asked.
            DataError: the chat template refuses the conversation, or it is too long.
        """
        began = time.monotonic()
        messages = [Message(role=turn.role, content=turn.content) for turn in ask.messages]
        ids = render_prompt(self.tokenizer, messages)[1]
        sampling = Sampling(
            max_tokens=min(ask.max_tokens, self._room(ids)), temperature=ask.temperature, top_p=ask.top_p
        )
        made, stopped = self._streamed(ask, ids, sampling, say, cancelled)
        text = self.tokenizer.decode(made.text_ids).strip()
        done = Done(
            id=ask.id,
            text=text,
            tokens=len(made.token_ids),
            seconds=time.monotonic() - began,
            finished=made.finished and not stopped,
            cancelled=stopped,
            special=self.tokenizer.special_text_in("\n".join([*(m["content"] for m in messages), text])),
        )
        say(done)

    def _streamed(
        self, ask: Ask, ids: Sequence[int], sampling: Sampling, say: Say, cancelled: Callable[[], bool]
    ) -> tuple[Generation, bool]:
        """The completion, its text said as it came; and whether it was cancelled."""
        growing, stopped = GrowingText(self.tokenizer.decode), cancelled()
        if stopped:
            return Generation((), finished=False), True

        def tell(piece: str) -> None:
            if piece:
                say(Token(id=ask.id, text=piece))

        def ended(so_far: Sequence[int]) -> bool:
            nonlocal stopped
            tell(growing.more(so_far))
            stopped = cancelled()
            return stopped

        with self.voices.speaking(ask.who) as policy:
            ((made,),) = policy.generate(
                [ids], sampling=sampling, stop_ids=sorted(self.tokenizer.stop_ids), ended=ended, seed=ask.seed
            )
        tell(growing.rest(made.text_ids))
        return made, stopped

    def _room(self, ids: Sequence[int]) -> int:
        """How many tokens the model can still read or write after these."""
        if self.hello.context is None:
            return 1 << 30
        room = self.hello.context - len(ids)
        if room < 1:
            raise DataError(
                f"the conversation has {len(ids):,} tokens, and the model reads {self.hello.context:,}",
                hint="Begin a new one.",
            )
        return room


def _context(folder: Path) -> int | None:
    """The longest sequence that a model's config.json allows, None where it does not say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the model's config.json cannot be read: {error}", where=str(folder)) from None
    longest = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return longest if isinstance(longest, int) and longest > 0 else None
