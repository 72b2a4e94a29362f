"""Where a text puts its final answer."""

from __future__ import annotations

import pytest

from mlx_align.data.answers import after_thought, boxed, final_answer, hashed, stated, tagged


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{42}.", "42"),
        (r"so \boxed{\frac{3}{4}} and", r"\frac{3}{4}"),
        (r"\boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{1}, then \boxed{2", "1"),
        (r"\boxed{1}, then {2}}", "1"),
        (r"\fbox {x}", "x"),
        (r"\boxed{}", ""),
        (r"\boxed{a \boxed{b}}", "b"),
        ("} no box {", None),
        (r"\boxed{" * 20_000, None),
    ],
)
def test_boxed(text: str, inside: str | None) -> None:
    assert boxed(text) == inside


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("93 - 8 = 85.\n#### 85", "85"),
        ("#### 1\nno\n####  $2,000 ", "$2,000"),
        ("so #### -3", "-3"),
        ("#### Step one\nadd", None),
        ("no", None),
    ],
)
def test_hashed(text: str, number: str | None) -> None:
    assert hashed(text) == number


def test_tagged() -> None:
    assert tagged("<answer>1</answer> or <answer> 2 </answer>.") == "2"
    assert tagged("<answer>1") is None
    assert tagged("1</answer>") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The answer is 42.", "42"),
        ("The final answer is: **42** and so on", "42** and so on"),
        ("**Answer:** 42", "42"),
        ("Answer:\n42\nmore", "42"),
        ("answer = 3.5 km; no more", "3.5 km"),
        ("The answer is 1. No, the answer is 2.", "2"),
        ("Answers vary: 4", None),
    ],
)
def test_stated(text: str, said: str | None) -> None:
    assert stated(text) == said


def test_the_final_answer_of_a_solution() -> None:
    assert final_answer("a \\boxed{1}\n#### 2") == "2"
    assert final_answer(r"a \boxed{1}") == "1"
    assert final_answer("the answer is 1") is None


@pytest.mark.parametrize(
    ("text", "rest"),
    [("<think>a</think>b", "b"), ("a</think>b", "b"), ("b", "b"), ("b<think>a", "b"), ("<think>a", "")],
)
def test_thought_is_left_out(text: str, rest: str) -> None:
    assert after_thought(text) == rest
