r"""The sympy reward: equal expressions, and texts that no parser may evaluate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest

from mlx_align.data.rows import Message, Row
from mlx_align.errors import DataError, UsageError
from mlx_align.rewards import Scorer, check_rows, make_specs
from tests.rewarded import sampled, value


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(make_specs([{"name": "sympy", "timeout": 60}])) as made:
        yield made


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (r"\boxed{\frac{3}{4}}", "0.75", 1),
        ("The answer is 3/4.", r"\frac34", 1),
        ("2x", "x*2", 1),
        ("x^2 + 2x + 1", "(x+1)^2", 1),
        ("x(x+1)", "x**2+x", 1),
        (r"2\sqrt{2}", r"\sqrt{8}", 1),
        (r"\frac{\sqrt{3}}{3}", "1/sqrt(3)", 1),
        (r"\sqrt[3]{27}", "3", 1),
        (r"\dfrac{x+1}{y}", "(1 + x)/y", 1),
        (r"e^{i\pi}", "-1", 1),
        ("sin(x)^2 + cos(x)^2", "1", 1),
        ("x = 5", "5", 1),
        ("2.5", r"2\frac{1}{2}", 1),
        ("1", r"2\frac{1}{2}", 0),
        ("9/5", "1 4/5", 1),
        ("4/5", "1 4/5", 0),
        ("-5/2", r"-2\frac12", 1),
        (r"\log_2 8", "3", 1),
        (r"\log_{10} 100", "2", 1),
        (r"\sin^2 x", "sin(x)^2", 1),
        (r"\arctan 1", r"\frac{\pi}{4}", 1),
        ("(1, 2)", "(1,2)", 1),
        ("(2, 1)", "(1,2)", 0),
        ("(1, 2, 3)", "(1,2)", 0),
        ("1,000", "1000", 1),
        (r"$90^\circ$", "90", 1),
        ("x", "y", 0),
        ("-x", "x", 0),
        ("sqrt(x^2)", "x", 0),
        ("5", "6", 0),
        ("no idea", "6", 0),
        ("1/0", "6", 0),
        ("", "6", 0),
    ],
)
def test_equal_expressions(scorer: Scorer, completion: str, answer: str, expected: float) -> None:
    scored = scorer.score([sampled(completion, answer)])
    assert scored.values.tolist() == [[expected]], scored.failures


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {}')",
        "open('{}', 'w')",
        "().__class__.__base__.__subclasses__()",
        "lambda: open('{}', 'w')",
        "[open(x, 'w') for x in '{}']",
        "x.evalf()",
        "exec(x)",
        "9**9**9**9",
        "10^{{10000000000}}",
        "((2^1000)^1000)^1000",
        "(" * 400,
        "1+" * 240 + "1",
        "x" * 100_000,
        "'{}'",
        "5 if x else 6",
        "sqrt(1, 2, 3, 4)",
    ],
)
def test_what_is_no_expression_is_worth_nothing_and_does_nothing(
    scorer: Scorer, text: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    scored = scorer.score([sampled(text.replace("{}", str(trace)), "5"), sampled("5", "5")])
    assert scored.values.tolist() == [[0], [1]], scored.failures
    assert not trace.exists()


def test_an_answer_that_is_no_expression_fails(scorer: Scorer) -> None:
    scored = scorer.score([sampled("5", "five apples"), sampled("5", None)])
    assert scored.values[:, 0] == pytest.approx([math.nan, math.nan], nan_ok=True)
    assert "is not a known name" in scored.failures[0].message


@pytest.mark.parametrize("answer", ["[2,3]", r"\text{even}", "five apples", "2 3", None])
def test_rows_whose_answer_cannot_be_read_are_refused_beforehand(answer: str | None) -> None:
    asked = (Message(role="user", content="?"),)
    rows = [Row(f"a:{n}", asked, (), answer=given) for n, given in enumerate(("1/2", answer))]
    specs = make_specs([{"name": "sympy"}])
    check_rows(specs, rows[:1])
    with pytest.raises(DataError, match=r"the row has (no|the) answer") as caught:
        check_rows(specs, rows)
    assert caught.value.where == "a:1"


def test_an_expression_that_takes_too_long_fails_alone() -> None:
    slow = "tan(x)+sin(x^2)cos(x^3)-exp(x)log(x+1)"
    with Scorer(make_specs([{"name": "sympy", "timeout": 0.001}])) as scorer:
        scored = scorer.score([sampled(f"({slow})^9 (x+1)^20", f"(x+1)^19 ({slow})^9 (x+2)")])
    assert scored.failures[0].message == "was not done after 0.001 seconds"


def test_only_the_form_asked_for_counts() -> None:
    assert value("sympy", "x+1", "1+x", extract="boxed") == 0


def test_without_sympy_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install .*\[math\]"):
        value("sympy", "1", "1")
