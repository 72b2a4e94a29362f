"""Format: 1 where the completion is one block after another, each in its tags, else 0 (or a share).

DeepSeek-R1 rewards `<think>...</think>` before its answer in this way (arXiv:2501.12948, section 2.2.2).
"""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from mlx_align.rewards.answers import with_opened
from mlx_align.rewards.base import Options, Reward, Sampled, pure


class FormatOptions(Options):
    """Which blocks, and how strictly."""

    tags: tuple[str, ...] = Field(
        default=("think", "answer"), min_length=1, description="the blocks' tags, in the order wanted"
    )
    partial: bool = Field(
        default=False, description="give every tag that is there once and in its place its share of 1"
    )

    @field_validator("tags")
    @classmethod
    def _are_names(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        if bad := [tag for tag in tags if not re.fullmatch(r"[A-Za-z][\w-]*", tag)]:
            raise ValueError(f"'{bad[0]}' is not the name of a tag; write think, not <think>")
        if len(set(tags)) < len(tags):
            raise ValueError("a tag is there twice")
        return tags


def format_(sampled: Sampled, options: FormatOptions) -> float:
    """1 for blocks in order, each once and not empty, with nothing between or around them but white space.

    A tag that the prompt has opened already, as some chat templates do, counts as the completion's.
    """
    text = with_opened(sampled, options.tags[0]).strip()
    marks = [mark for tag in options.tags for mark in (f"<{tag}>", f"</{tag}>")]
    in_place = _in_place(text, marks)
    if in_place == len(marks) and _nothing_else(text, options.tags):
        return 1.0
    # Not 1: the tags alone are not the format.
    return in_place / (len(marks) + 1) if options.partial else 0.0


def _in_place(text: str, marks: list[str]) -> int:
    """How many tags are there exactly once and after those that are wanted before them."""
    count, behind = 0, -1
    for mark in marks:
        position = text.find(mark)
        if text.count(mark) == 1 and position > behind:
            count, behind = count + 1, position
    return count


def _nothing_else(text: str, tags: tuple[str, ...]) -> bool:
    """Whether tags that are all in place leave no text outside and no block empty."""
    for tag in tags:
        before, _, rest = text.partition(f"<{tag}>")
        inside, _, text = rest.partition(f"</{tag}>")
        if before.strip() or not inside.strip():
            return False
    return not text.strip()


REWARD = Reward("format", "blocks in tags, in order", FormatOptions, pure(format_))
