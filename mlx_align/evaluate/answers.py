"""What sampled answers look like beside the data's own."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from mlx_align.events import Completion


def nearer_to_chosen(completions: Iterable[Completion]) -> tuple[int, int]:
    """How many answers are closer in their wording to the chosen answer than to the rejected one.

    Closeness is difflib's ratio over characters, so this works for any data and says nothing about truth.

    Returns:
        (nearer, judged): answers nearer to the chosen one, out of those that have both to compare with.
    """
    nearer = judged = 0
    for item in completions:
        if item.chosen is None or item.rejected is None:
            continue
        judged += 1
        nearer += _closeness(item.completion, item.chosen) > _closeness(item.completion, item.rejected)
    return nearer, judged


def _closeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other, autojunk=False).ratio()
