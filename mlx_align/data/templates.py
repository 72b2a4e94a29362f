"""Chat templates: the model's own Jinja, which is code from a stranger, rendered within limits."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import FrameType
from typing import Any, Protocol

from mlx_align.data.rows import Message
from mlx_align.errors import DataError, UsageError

MAX_SECONDS = 5.0
"""Longest time a template may take for one conversation; an honest one takes about a millisecond."""

MAX_CHARACTERS = 4_000_000
"""Longest text a template may make of one conversation."""

_CLOCK = re.compile(r"""\bstrftime_now\(\s*(?P<quote>['"])(?P<format>[^'"\\]*)(?P=quote)\s*\)""")

_FAULTY = "The chat template comes with the model (chat_template.jinja); this one may be faulty or hostile."


class Tokenizer(Protocol):
    """What is used of a tokenizer; mlx-lm's TokenizerWrapper and transformers' tokenizers have it."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Tokens beside the ordinary vocabulary: id -> something with `content` and `special`."""

    @property
    def all_special_tokens(self) -> Sequence[str]:
        """Tokens with a part of their own: begin, end, padding, ..."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, None where there is none."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The token ids of a text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""

    def apply_chat_template(
        self, conversation: list[Message], *, add_generation_prompt: bool, tokenize: bool
    ) -> str:
        """The conversation as the model wants to read it."""


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer with a chat template, and what is known of its special tokens.

    Attributes:
        tokenizer: what encodes, decodes and renders.
        eos_id: the end-of-turn token to append where the template itself has none.
        stop_ids: the tokens that end the assistant's turn, `eos_id` among them.
    """

    tokenizer: Tokenizer
    eos_id: int
    stop_ids: frozenset[int]

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """Stop tokens and tokens marked special, longest first so that a match names the whole token."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = {token.content for token in added if token.special}
        texts |= set(self.tokenizer.all_special_tokens)
        texts |= {self.tokenizer.decode([stop]) for stop in self.stop_ids}
        return tuple(sorted(texts - {""}, key=lambda text: (-len(text), text)))

    def encode(self, text: str) -> list[int]:
        """The token ids of rendered text, without anything added: the template has already put BOS there."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return self.tokenizer.decode(list(ids))

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool, name: str | None) -> str:
        """The conversation as the model wants to read it; `name` is the row's, for messages.

        Raises:
            DataError: the template refuses the conversation, takes too long or makes too much text.
        """
        copies = [Message(role=m["role"], content=m["content"]) for m in messages]
        try:
            with time_limit(MAX_SECONDS):
                text = self.tokenizer.apply_chat_template(
                    copies, add_generation_prompt=add_generation_prompt, tokenize=False
                )
        except TimeoutError:
            message = f"the chat template was not done after {MAX_SECONDS:g} seconds"
            raise DataError(message, where=name, hint=_FAULTY) from None
        except Exception as error:  # a stranger's code may raise anything
            raise DataError(f"the chat template refuses this conversation: {error}", where=name) from error
        if len(text) > MAX_CHARACTERS:
            message = f"the chat template made {len(text):,} characters; the limit is {MAX_CHARACTERS:,}"
            raise DataError(message, where=name, hint=_FAULTY)
        return text

    def special_text_in(self, text: str) -> str | None:
        """A special token that a text contains literally, or None."""
        return next((special for special in self.special_texts if special in text), None)


def wrap_tokenizer(tokenizer: Any) -> ChatTokenizer:
    """A ChatTokenizer from mlx-lm's TokenizerWrapper or from a transformers tokenizer.

    Raises:
        UsageError: it has no chat template, or no end-of-sequence token.
    """
    # mlx-lm's wrapper may render with Python code instead of a Jinja template; only it knows.
    has_template = getattr(tokenizer, "has_chat_template", None)
    if not (tokenizer.chat_template if has_template is None else has_template):
        raise UsageError(
            "the model's tokenizer has no chat template, so it cannot be taught with conversations",
            hint="Use the instruct or chat version of the model, or put a chat_template.jinja in its folder.",
        )
    eos_id: int | None = tokenizer.eos_token_id
    if eos_id is None:
        raise UsageError(
            "the model's tokenizer has no end-of-sequence token, so answers could not be taught to end",
            hint="Set eos_token in the model's tokenizer_config.json.",
        )
    # mlx-lm collects every token that config.json and generation_config.json call an end in one set;
    # transformers answers the same name with a bare number.
    ends = getattr(tokenizer, "eos_token_ids", ())
    stop_ids = frozenset({eos_id, *(ends if isinstance(ends, set | list | tuple) else ())})
    return ChatTokenizer(tokenizer, eos_id, stop_ids)


def dated(template: str, moment: datetime) -> str:
    """A chat template that writes one moment's date on any day.

    Templates read the clock by `strftime_now("%d %b %Y")`, a function of transformers' own that no argument
    replaces. So what it would have given then is written in place of each call whose argument is a literal.

    Args:
        template: Jinja.
        moment: by the clock that a person would have looked at.
    """
    return _CLOCK.sub(lambda call: repr(moment.strftime(call["format"])), template)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds.

    Only in the main thread, which is where the engine renders: Python delivers signals nowhere else, so
    in another thread there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError

    handler = signal.signal(signal.SIGALRM, expire)
    begun = time.monotonic()
    pending, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if pending:  # someone else's alarm: give back what is left of it
            left = pending - (time.monotonic() - begun)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), interval)
