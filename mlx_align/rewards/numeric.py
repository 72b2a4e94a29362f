r"""Numeric: 1 where the completion's number is the row's, else 0.

The number is taken from the last \boxed{...}, "#### ...", <answer>...</answer> or "answer is ...", and
without any of them it is the last number of the text. An "answer is ..." without a number does not count:
"The answer is simple: add them. 6 + 7 = 13" gives 13. Only its own sentence is read: "Answer: Let x be 3.
Then 10 + 3 = 13" gives 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from mlx_align.data.answers import each_stated
from mlx_align.rewards.answers import EXTRACT, Extract, answer_text, find_answer
from mlx_align.rewards.base import NO_ANSWER, Options, Reward, RewardError, Sampled, answer_of, pure
from mlx_align.rewards.numbers import Number, find_numbers


class NumericOptions(Options):
    """How closely numbers must agree."""

    tolerance: float = Field(
        default=1e-6, ge=0, description="largest difference, relative to answers above 1; 0: exactly equal"
    )
    extract: Extract = Field(default="auto", description=EXTRACT)


def numeric(sampled: Sampled, options: NumericOptions) -> float:
    """1 where the completion's number equals the answer's, 0 where it does not or there is none.

    Raises:
        RewardError: the row's answer is not one number.
    """
    right = _only_number(answer_of(sampled))
    if right is None:
        raise RewardError(f"the row's answer '{sampled.answer}' is not one number")
    given = final_number(answer_text(sampled), options.extract)
    return float(given is not None and given.equals(right, options.tolerance))


def final_number(text: str, extract: Extract) -> Number | None:
    """The number that an `answer_text` ends with, in the form asked for."""
    found = find_answer(text, extract)
    if found is None:
        return None
    answer, form = found
    if form != "stated":
        return _last_number(answer)
    for sentence in each_stated(text):
        # "The answer is 2 + 3 = 5 apples for 4 children" gives 5.
        if numbers := find_numbers(sentence.rpartition("=")[2]):
            return numbers[0]
    return _last_number(text) if extract == "auto" else None


def _last_number(text: str) -> Number | None:
    return next(reversed(find_numbers(text)), None)


def _only_number(answer: str) -> Number | None:
    numbers = find_numbers(answer)
    return numbers[0] if len(numbers) == 1 else None


def lacks(answer: str | None, row: Mapping[str, Any], options: NumericOptions) -> str | None:
    """An answer, and one number in it."""
    if answer is None:
        return NO_ANSWER
    return None if _only_number(answer) else f"has the answer '{answer}', which is not one number"


REWARD = Reward("numeric", "the right number", NumericOptions, pure(numeric), lacks)
