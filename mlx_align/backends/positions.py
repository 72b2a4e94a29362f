"""LongRoPE, as the engine sees it: a model that turns short and long sequences by other factors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Positions:
    """How a loaded model chooses between its two lists of factors.

    Attributes:
        border: tokens of the longest sequence that is short.
        long: whether everything is read with the list for long sequences, or everything with that for short
            ones; None: each batch, and each completion, with that which its length asks for.
    """

    border: int
    long: bool | None
