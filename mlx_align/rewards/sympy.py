"""Sympy: 1 where the completion's expression is mathematically the row's, else 0; needs the extra 'math'.

The expressions are read by a parser of our own (`expressions.py`), which knows numbers, letters and a list of
functions and evaluates no code. SymPy compares them (`workers/equivalence.py`) in a process with limits on
time and memory: simplifying may take for ever.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from mlx_align import installing
from mlx_align.errors import UsageError
from mlx_align.rewards.answers import EXTRACT, Extract, answer_text, find_answer
from mlx_align.rewards.base import (
    NO_ANSWER,
    Options,
    Outcome,
    Reward,
    RewardError,
    Running,
    Sampled,
    Tools,
    answer_of,
)
from mlx_align.rewards.expressions import ExpressionError, read_expression
from mlx_align.rewards.workers import Limits, Worker
from mlx_align.rewards.workers import __file__ as workers

MEMORY = 4096
"""MiB of address space for SymPy, which needs a tenth of that."""


class SympyOptions(Options):
    """Where the expression stands, and how long to think about it."""

    extract: Extract = Field(default="auto", description=EXTRACT)
    timeout: float = Field(default=5.0, gt=0, description="seconds for one completion")


class Symbolic:
    """SymPy at work in its process.

    Args:
        options: the reward's.
    """

    def __init__(self, options: SympyOptions) -> None:
        self._extract: Extract = options.extract
        file = Path(workers).with_name("equivalence.py")
        self._worker = Worker(file, "equivalent", Limits(each=options.timeout, memory=MEMORY))

    def score(self, samples: Sequence[Sampled]) -> list[Outcome]:
        """Whether each completion's expression equals its row's."""
        return [self._one(sampled) for sampled in samples]

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def _one(self, sampled: Sampled) -> Outcome:
        try:
            right = read_expression(answer_of(sampled))
        except ExpressionError as error:
            return RewardError(f"the row's answer '{sampled.answer}' cannot be read: {error}")
        except RewardError as error:
            return error
        found = find_answer(answer_text(sampled), self._extract)
        if found is None:
            return 0.0
        try:
            given = read_expression(found[0])
        except ExpressionError:
            return 0.0
        return self._worker.score([replace(sampled, completion=given, answer=right, prompt="", row={})])[0]


def start(options: SympyOptions, tools: Tools) -> Running:
    """SymPy in its process.

    Raises:
        UsageError: SymPy is not installed.
    """
    if importlib.util.find_spec("sympy") is None:
        raise UsageError(
            "the reward 'sympy' needs the library SymPy",
            where="reward 'sympy'",
            hint=f"Install it: {installing.command('math')}.",
        )
    return Symbolic(options)


def lacks(answer: str | None, row: Mapping[str, Any], options: SympyOptions) -> str | None:
    """An answer, and one that can be read."""
    if answer is None:
        return NO_ANSWER
    try:
        read_expression(answer)
    except ExpressionError as error:
        return f"has the answer '{answer}', which cannot be read as an expression: {error}"
    return None


REWARD = Reward("sympy", "a mathematically equal expression", SympyOptions, start, lacks)
