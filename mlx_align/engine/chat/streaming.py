"""The text of an answer while it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""What a tokenizer makes of bytes that are not yet a character."""


class GrowingText:
    """What can be shown of tokens that come one after the other.

    A character whose bytes are spread over several tokens waits for the last of them. White space waits for
    what follows it, because an answer neither begins nor ends with any. Only the last tokens are decoded
    again, with some before them: what a token looks like may depend on the one it follows.

    Args:
        decode: the text of token ids.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context, self._settled = 0, 0
        self._begun, self._space = False, ""

    def more(self, ids: Sequence[int]) -> str:
        """What has come to be text since the last call; `ids` are all tokens so far."""
        text = self._decode(ids[self._context :])
        if text.endswith(UNFINISHED):
            return ""
        fresh = text[len(self._decode(ids[self._context : self._settled])) :]
        self._context, self._settled = self._settled, len(ids)
        return self._trimmed(fresh)

    def rest(self, ids: Sequence[int]) -> str:
        """What is left when no more tokens come, an unfinished character included."""
        text = self._decode(ids[self._context :])
        return self._trimmed(text[len(self._decode(ids[self._context : self._settled])) :])

    def _trimmed(self, fresh: str) -> str:
        text = self._space + fresh if self._begun else fresh.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown
