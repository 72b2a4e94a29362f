"""Exact: 1 where the completion's answer is the row's, word for word, else 0."""

from __future__ import annotations

import unicodedata

from pydantic import Field

from mlx_align.rewards.answers import EXTRACT, Extract, answer_text, find_answer, only_thought
from mlx_align.rewards.base import Options, Reward, Sampled, answer_of, needs_answer, pure


class ExactOptions(Options):
    """What does not count as a difference."""

    extract: Extract = Field(default="auto", description=EXTRACT)
    case: bool = Field(default=False, description="whether capital letters must agree")
    punctuation: bool = Field(default=False, description="whether punctuation at the ends must agree")


def exact(sampled: Sampled, options: ExactOptions) -> float:
    """1 where the answers are the same after Unicode normalisation and with white space made even.

    Raises:
        RewardError: the row has no answer.
    """
    right = answer_of(sampled)
    if only_thought(sampled):  # an answer such as "?" is empty without its punctuation, too
        return 0.0
    found = find_answer(answer_text(sampled), options.extract)
    return float(found is not None and _plain(found[0], options) == _plain(right, options))


def _plain(text: str, options: ExactOptions) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    if not options.punctuation:
        text = text.strip(" .,;:!?\"'`*$()")
    return text if options.case else text.casefold()


REWARD = Reward("exact", "the right words", ExactOptions, pure(exact), needs_answer)
