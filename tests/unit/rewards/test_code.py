"""The reward "code": which program, which tests, how much."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mlx_align.errors import SandboxMissingError
from mlx_align.rewards import sandbox
from mlx_align.rewards.base import RewardError, Sampled, Tools
from mlx_align.rewards.code import REWARD, CodeOptions, code, program_in

linux = pytest.mark.skipif(sys.platform != "linux", reason="not yet tried on a Mac")

ADD = "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone."
ASSERTS = {"tests": ["assert add(1, 2) == 3", "assert add(0, 0) == 1"]}
MBPP = {"test_list": ["assert add(one, 2) == 3"], "test_setup_code": "one = 1"}
HUMANEVAL = {
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(0, 0) == 0\n",
    "entry_point": "add",
}
SUM = "```py\nprint(sum(map(int, input().split())))\n```"
CASES = {"tests": [{"input": "1 2\n", "output": "3"}, {"input": "4 5", "output": "9 \n\n"}]}


def sampled(completion: str, row: dict[str, Any]) -> Sampled:
    return Sampled("a prompt", completion, None, row, 10, False)


@linux
@pytest.mark.parametrize(
    ("completion", "row", "value"),
    [
        (ADD, ASSERTS, 0.5),
        (ADD, MBPP, 1),
        (ADD, HUMANEVAL, 1),
        (ADD.replace("+", "-"), HUMANEVAL, 0),
        (SUM, CASES, 1),
        ("print(3)", CASES, 0.5),
        ("print(3); raise SystemExit(1)", CASES, 0),
        ("print(3, end='')", CASES, 0.5),
        ("print(' 3')", CASES, 0),
        ("I cannot help with that.", ASSERTS, 0),
        ("", CASES, 0),
        (f"<think>{ADD}", HUMANEVAL, 0),
        (f"<think>{ADD}</think>\n{ADD.replace('+', '-')}", HUMANEVAL, 0),
        ("<think>\n\n</think>\n\nprint(3)", CASES, 0.5),
        ("```python\ndef add(a, b", ASSERTS, 0),
        ("\ud800", CASES, 0),
    ],
)
def test_the_share_of_tests_that_are_passed(completion: str, row: dict[str, Any], value: float) -> None:
    assert code(sampled(completion, row), CodeOptions()) == value


@linux
def test_a_draft_in_a_thought_that_the_prompt_opened_is_no_program() -> None:
    draft = Sampled("a prompt<think>\n", ADD, None, HUMANEVAL, 10, False)
    assert code(draft, CodeOptions()) == 0


@linux
def test_all_or_nothing() -> None:
    options = CodeOptions(all_or_nothing=True)
    assert code(sampled(ADD, ASSERTS), options) == 0
    assert code(sampled(ADD, HUMANEVAL), options) == 1


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```Python title=x\nx = 2\n```\n```\noutput\n```", "x = 2\n"),
        ("```\nx = 1\n```\n```bash\nls\n```", "x = 1\n"),
        ("text\n```python\nx = '```'\ny = 1", "x = '```'\ny = 1"),
        ("  ```python\n  x = 1\n  ```", "x = 1\n"),
        ("x = 1", "x = 1"),
    ],
)
def test_which_program_is_meant(completion: str, program: str) -> None:
    assert program_in(completion) == program


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "has no tests"),
        ({"tests": []}, "has no tests"),
        ({"tests": "assert True"}, "has no tests"),
        ({"test": "def check(f): pass"}, "'entry_point'"),
        ({"tests": ["assert True", {"input": "", "output": ""}]}, "test 0"),
        ({"tests": [{"input": "", "output": ""}, {"input": ""}]}, "test 1"),
        ({"tests": [{"input": 3, "output": "3"}]}, "test 0"),
    ],
)
def test_a_row_without_usable_tests_is_named(row: dict[str, Any], message: str) -> None:
    missing = REWARD.lacks(None, row, CodeOptions())
    assert missing is not None
    assert message in missing
    with pytest.raises(RewardError, match=message):
        code(sampled(ADD, row), CodeOptions())


@pytest.mark.parametrize("row", [ASSERTS, MBPP, HUMANEVAL, CASES])
def test_a_row_with_tests_lacks_nothing(row: dict[str, Any]) -> None:
    assert REWARD.lacks(None, row, CodeOptions()) is None


@linux
def test_a_test_that_no_program_can_pass_is_no_zero() -> None:
    with pytest.raises(RewardError, match="numpy"):
        code(sampled(ADD, {"tests": ["import numpy"]}), CodeOptions())


@linux
def test_several_at_a_time_keep_their_order() -> None:
    running = REWARD.start(CodeOptions(), Tools())
    samples = [sampled(f"print({n % 4})", CASES) for n in range(8)]
    samples.append(sampled(ADD, {}))
    *values, failed = running.score(samples)
    assert values == [0, 0, 0, 0.5] * 2
    assert isinstance(failed, RewardError)
    running.close()


def test_it_does_not_start_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    sandbox.require.cache_clear()
    with pytest.raises(SandboxMissingError):
        REWARD.start(CodeOptions(), Tools())
