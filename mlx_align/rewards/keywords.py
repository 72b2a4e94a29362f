"""Keywords: the share of wanted words that the completion has; 0 where it has an unwanted one."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from mlx_align.rewards.base import Options, Reward, Sampled, pure


class KeywordsOptions(Options):
    """The words or phrases; they must stand as whole words."""

    include: tuple[str, ...] = Field(default=(), description="words or phrases that are wanted")
    exclude: tuple[str, ...] = Field(default=(), description="words or phrases that are not")
    case: bool = Field(default=False, description="whether capital letters must agree")

    @model_validator(mode="after")
    def _some_words(self) -> KeywordsOptions:
        words = (*self.include, *self.exclude)
        if not words:
            raise ValueError("set include, exclude or both")
        if not all(word.strip() for word in words):
            raise ValueError("a keyword is empty")
        return self


def keywords(sampled: Sampled, options: KeywordsOptions) -> float:
    """The share of `include` that is there; 1 without any; 0 where one of `exclude` is."""
    text = sampled.completion
    if any(_has(text, word, options.case) for word in options.exclude):
        return 0.0
    if not options.include:
        return 1.0
    return sum(_has(text, word, options.case) for word in options.include) / len(options.include)


def _has(text: str, word: str, case: bool) -> bool:
    """Whether a word stands in a text with no letter or digit beside it; any white space parts its words."""
    inside = r"\s+".join(map(re.escape, word.split()))
    return re.search(rf"(?<!\w){inside}(?!\w)", text, 0 if case else re.IGNORECASE) is not None


REWARD = Reward("keywords", "words to use or to avoid", KeywordsOptions, pure(keywords))
