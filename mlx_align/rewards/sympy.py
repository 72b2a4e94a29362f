"""Sympy: 1 where the completion's expression is mathematically the row's, else 0; needs the extra 'math'.

The expressions are read by a parser of our own (`workers/equivalence.py`), which knows numbers, letters and a
list of functions and evaluates no code, in a process with limits on time and memory: simplifying may take
for ever.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from mlx_align import installing
from mlx_align.errors import UsageError
from mlx_align.rewards.answers import EXTRACT, Extract, find_answer
from mlx_align.rewards.base import (
    Options,
    Outcome,
    Reward,
    RewardError,
    Running,
    Sampled,
    Tools,
    needs_answer,
)
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
        if sampled.answer is None:
            return RewardError("the row has no answer")
        found = find_answer(sampled.completion, self._extract)
        if found is None:
            return 0.0
        return self._worker.score([replace(sampled, completion=found[0], prompt="", row={})])[0]


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


REWARD = Reward("sympy", "a mathematically equal expression", SympyOptions, start, needs_answer)
