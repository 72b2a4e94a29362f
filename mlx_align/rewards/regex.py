"""Regex: 1 where a regular expression matches the completion, else 0.

A thought is left out, unless the pattern has its tags, as in "<think>.+</think>[^<]+": then it gets them too.
A thought with no answer behind it is worth 0, even if the pattern would match an empty text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from mlx_align.rewards.answers import answer_text, only_thought, with_opened
from mlx_align.rewards.base import NO_ANSWER, Options, Reward, Sampled, answer_of, pure
from mlx_align.rewards.limits import unless_slow

ANSWER = "{answer}"
THOUGHT = "think>"
"""In a pattern: it speaks of the thought, or of its end."""


class RegexOptions(Options):
    """The expression, and where it must match."""

    pattern: str = Field(
        min_length=1, description="Python's syntax; {answer} stands for the row's answer, taken literally"
    )
    where: Literal["anywhere", "whole"] = Field(
        default="anywhere",
        description="whether it may match a part of the answer or must match all of it. What is thought "
        "belongs to the answer only if the pattern itself has <think> or </think>",
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern.replace(ANSWER, "x"))
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


def regex(sampled: Sampled, options: RegexOptions) -> float:
    """1 where the expression matches, 0 where it does not; white space around the text is left out.

    Raises:
        RewardError: the pattern speaks of an answer that the row has not, or backtracks without end.
    """
    pattern = options.pattern
    if ANSWER in pattern:
        pattern = pattern.replace(ANSWER, re.escape(answer_of(sampled)))
    if THOUGHT in options.pattern:
        text = with_opened(sampled, "think")
    elif only_thought(sampled):
        return 0.0
    else:
        text = answer_text(sampled)
    match = re.fullmatch if options.where == "whole" else re.search
    with unless_slow(f"the regular expression '{options.pattern}'"):
        return float(match(pattern, text.strip()) is not None)


def lacks(answer: str | None, row: Mapping[str, Any], options: RegexOptions) -> str | None:
    """An answer, where the pattern speaks of one."""
    return NO_ANSWER if answer is None and ANSWER in options.pattern else None


REWARD = Reward("regex", "a pattern", RegexOptions, pure(regex), lacks)
