"""code: the share of a row's unit tests that the program in a completion passes, in a sandbox.

Tests come with the row, in one of three usual shapes:

    tests        ["assert add(1, 2) == 3", ...]; as in MBPP also "test_list", with "test_setup_code"
    tests        [{"input": "1 2", "output": "3"}, ...]: text on stdin, text expected on stdout
    test         "def check(candidate): ...", with "entry_point", as in HumanEval

Austin et al. 2021, arXiv:2108.07732 (MBPP); Chen et al. 2021, arXiv:2107.03374 (HumanEval).
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from mlx_align.rewards import sandbox
from mlx_align.rewards.answers import answer_text, only_thought
from mlx_align.rewards.base import Options, Outcome, Pure, Reward, RewardError, Running, Sampled, Tools

_SHAPES = "'tests' or 'test_list' (a list of asserts, or of {input, output}), or 'test' with 'entry_point'"
_BLOCK = re.compile(r"^[ \t]*```(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


class CodeOptions(Options):
    """Limits of one program, and how its tests count."""

    all_or_nothing: bool = Field(default=False, description="1 if all tests are passed, else 0")
    cpu_seconds: float = Field(default=5.0, gt=0, le=600, description="processor time of a program")
    wall_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="time by the clock, for a program that waits; generous"
    )
    memory_mb: int = Field(default=512, ge=64, description="memory of a program")

    @property
    def limits(self) -> sandbox.Limits:
        """The same as the sandbox wants it."""
        return sandbox.Limits(
            cpu_seconds=self.cpu_seconds, wall_seconds=self.wall_seconds, memory=self.memory_mb * 2**20
        )


@dataclass(frozen=True)
class Statements:
    """Tests that are Python, for `sandbox.examine`."""

    tests: tuple[str, ...]
    setup: str = ""
    entry_point: str | None = None


@dataclass(frozen=True)
class Case:
    """A test of a script: what it reads and what it should print."""

    input: str
    output: str


def tests_of(row: Mapping[str, Any]) -> Statements | tuple[Case, ...]:
    """The tests that a row brings.

    Raises:
        RewardError: none, or in a shape that is not known; says what the row lacks.
    """
    tests = row.get("tests") or row.get("test_list")
    entry_point = row.get("entry_point")
    if not tests and isinstance(row.get("test"), str) and isinstance(entry_point, str):
        return Statements((f"{row['test']}\ncheck({entry_point})",), entry_point=entry_point)
    if not isinstance(tests, list | tuple) or not tests:
        raise RewardError(f"has no tests: expected {_SHAPES}")
    if all(isinstance(test, str) for test in tests):
        setup = row.get("test_setup_code") or ""
        return Statements(tuple(tests), str(setup), entry_point if isinstance(entry_point, str) else None)
    return tuple(_case(test, number) for number, test in enumerate(tests))


def _case(test: Any, number: int) -> Case:
    match test:
        case {"input": str(given), "output": str(expected)}:
            return Case(given, expected)
    raise RewardError(f"has a test {number} that is neither text nor {{input, output}} with text in both")


def program_in(text: str) -> str:
    """The last code block marked as Python, else the last that is not marked, else the whole text."""
    blocks = _BLOCK.findall(text)
    for languages in (("python", "python3", "py"), ("",)):
        marked = [body for language, body in blocks if language.lower() in languages]
        if marked:
            return textwrap.dedent(marked[-1])
    return text


def code(sampled: Sampled, options: CodeOptions) -> float:
    """The share of tests passed, in [0, 1]; with `all_or_nothing` 1 or 0.

    Raises:
        RewardError: the row has no usable tests, or the sandbox failed.
    """
    tests = tests_of(sampled.row)
    if only_thought(sampled):  # an empty program may pass a test: that nothing is printed
        return 0.0
    program = program_in(answer_text(sampled))
    if isinstance(tests, Statements):
        passed = _examine(program, tests, options.limits)
    else:
        passed = [_solves(program, case, options.limits) for case in tests]
    return float(all(passed)) if options.all_or_nothing else sum(passed) / len(passed)


def _examine(program: str, tests: Statements, limits: sandbox.Limits) -> list[bool]:
    verdicts = sandbox.examine(
        program, tests.tests, setup=tests.setup, entry_point=tests.entry_point, limits=limits
    )
    unusable = next((verdict for verdict in verdicts if verdict.kind == "unusable"), None)
    if unusable is not None:
        raise RewardError(unusable.reason)
    return [verdict.kind == "passed" for verdict in verdicts]


def _solves(program: str, case: Case, limits: sandbox.Limits) -> bool:
    outcome = sandbox.run(program, case.input.encode(), limits)
    printed = outcome.stdout.decode(errors="replace")
    return outcome.code == 0 and _lines(printed) == _lines(case.output)


def _lines(text: str) -> list[str]:
    """Lines without the white space at their ends and the empty lines at the end, as judges compare them."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


@dataclass(frozen=True)
class Several:
    """The reward for several completions at a time: a program that waits keeps no processor busy."""

    one: Pure
    at_a_time: int

    def score(self, samples: Sequence[Sampled]) -> list[Outcome]:
        """The outcome of each completion, in their order."""
        with ThreadPoolExecutor(self.at_a_time) as pool:
            return [outcome for [outcome] in pool.map(lambda sampled: self.one.score([sampled]), samples)]

    def close(self) -> None:
        """Nothing to give back."""


def start(options: CodeOptions, tools: Tools) -> Running:
    """The reward at work.

    Raises:
        SandboxMissingError: programs cannot be run safely on this machine.
    """
    sandbox.require()
    return Several(Pure(code, options), at_a_time=os.cpu_count() or 1)


def lacks(answer: str | None, row: Mapping[str, Any], options: CodeOptions) -> str | None:
    """What a row misses."""
    try:
        tests_of(row)
    except RewardError as error:
        return str(error)
    return None


REWARD = Reward(
    name="code",
    title="share of unit tests passed, in a sandbox",
    options=CodeOptions,
    start=start,
    lacks=lacks,
)
