"""What a reward is: a name, its own options and a function that scores completions.

A new reward is one new file that ends in `REWARD = Reward(...)`, plus one line in the registry
(`rewards/registry.py`). Nothing else changes. Most are one pure function; those that need a process of
their own, or a model, keep it in a `Running`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Sampled:
    """One completion, and all that a reward may know about it.

    Attributes:
        prompt: the prompt as the model read it, chat template included.
        completion: what the model answered, without the stop token that ended it.
        answer: the row's right answer, None where it has none.
        row: the row's other columns.
        tokens: length of the completion, the stop token included.
        truncated: whether it was cut off because it reached the longest length.
    """

    prompt: str
    completion: str
    answer: str | None
    row: Mapping[str, Any]
    tokens: int
    truncated: bool


class RewardError(Exception):
    """There is no value for this completion; the message says why, in one line.

    Not an AlignError, because it never leaves the Scorer: the completion gets NaN and a named Failure.
    A wrong answer is no error: it is worth 0.
    """


class Options(BaseModel):
    """A reward's own options, checked: an unknown key or a value out of range is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def anywhere(self) -> dict[str, str]:
        """The options that name a file or a folder, by absolute paths."""
        return {}


Outcome = float | RewardError
"""The value of one completion, or why there is none."""

Generate = Callable[[Sequence[list[dict[str, str]]]], list[str]]
"""The answers of a judge model to conversations, one for each, in their order.

The conversations quote prompts and completions, which may contain the judge's special tokens as text: who
lends the model must see to it that they are read as text."""

OpenJudge = Callable[[str, int], Generate]
"""(model, longest answer in tokens) -> that model as a judge; "base" is the policy as the run began."""


@dataclass(frozen=True)
class Tools:
    """What the engine lends to rewards that cannot work alone.

    Attributes:
        open_judge: makes a model ready to judge; None where no model can be had.
    """

    open_judge: OpenJudge | None = None


class Running(Protocol):
    """A reward at work, with whatever it holds open."""

    def score(self, samples: Sequence[Sampled]) -> list[Outcome]:
        """The outcome of each completion, in their order."""

    def close(self) -> None:
        """Give back what is held open; called once."""


@dataclass(frozen=True)
class Reward:
    """One kind of reward.

    Attributes:
        name: what `--reward` and the configuration call it.
        title: what it rewards, in a few words.
        options: the model that checks its own options.
        start: (options, tools) -> the reward at work. Raises AlignError where it cannot work at all.
        lacks: (answer, row, options) -> what it misses in a data row, as the end of the sentence "the
            row ..."; None where nothing is missing. `answer` and `row` are those of `Sampled`.
        label: options -> what to call it in displays; distinguishes two of one kind.
    """

    name: str
    title: str
    options: type[Options]
    start: Callable[[Any, Tools], Running]
    lacks: Callable[[str | None, Mapping[str, Any], Any], str | None] = lambda answer, row, options: None
    label: Callable[[Any], str] | None = None


@dataclass(frozen=True)
class Pure:
    """A reward that is one function of one completion and holds nothing open."""

    function: Callable[[Sampled, Any], float]
    options: Options

    def score(self, samples: Sequence[Sampled]) -> list[Outcome]:
        """The function's value for each completion."""
        return [self._one(sampled) for sampled in samples]

    def close(self) -> None:
        """Nothing to give back."""

    def _one(self, sampled: Sampled) -> Outcome:
        try:
            return float(self.function(sampled, self.options))
        except RewardError as error:
            return error
        except Exception as error:  # whatever a completion provokes, the run goes on and says so
            return RewardError(f"{type(error).__name__}: {error}")


def pure(function: Callable[[Sampled, Any], float]) -> Callable[[Any, Tools], Running]:
    """`Reward.start` for a function (sampled, options) -> float that may raise RewardError."""
    return lambda options, tools: Pure(function, options)


NO_ANSWER = "has no answer"
"""What `Reward.lacks` says of a row without one, where one is compared with."""


def needs_answer(answer: str | None, row: Mapping[str, Any], options: Options) -> str | None:
    """`Reward.lacks` for a reward that compares with the row's answer."""
    return NO_ANSWER if answer is None else None


def answer_of(sampled: Sampled) -> str:
    """The row's answer.

    Raises:
        RewardError: it has none.
    """
    if sampled.answer is None:
        raise RewardError("the row has no answer")
    return sampled.answer
