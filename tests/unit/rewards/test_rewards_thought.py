"""What a model thinks before it answers is no answer, whoever opened the thought and whether it ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlx_align.rewards import Scorer, make_specs
from mlx_align.rewards.code import CodeOptions, code
from tests.rewarded import sampled, value

OPENED = "<|assistant|>\n<think>\n"


@pytest.mark.parametrize(
    ("name", "options", "good"),
    [
        ("numeric", {}, "6 + 7 = 13"),
        ("numeric", {"extract": "whole"}, "The answer is simple: 13"),
        ("exact", {}, "13"),
        ("sympy", {}, "x = 13"),
        ("json", {}, '{"a": 13}'),
        ("regex", {"pattern": "{answer}"}, "It is 13."),
        ("regex", {"pattern": "{answer}", "where": "whole"}, "13"),
        ("language", {"language": "en"}, "It is not the sum of these."),
        ("refusal", {}, "The sum of these is 13."),
    ],
)
def test_only_what_follows_the_thought_is_scored(name: str, options: dict[str, Any], good: str) -> None:
    with Scorer(make_specs([{"name": name, **options}])) as scorer:
        scored = scorer.score(
            [
                sampled(good, "13"),
                sampled(f"<think>\n\n</think>\n\n{good}", "13"),
                sampled(f"12, or пять\n</think>\n\n{good}", "13", prompt=OPENED),
                sampled(good, "13", prompt=f"{OPENED}\n</think>\n\n"),
                sampled(f"<think>\n{good}", "13"),
                sampled(good, "13", prompt=OPENED),
                sampled(f"<think>\n{good}", "13", prompt=OPENED),
            ]
        )
    assert scored.values[:, 0].tolist() == [1, 1, 1, 1, 0, 0, 0], scored.failures


THOUGHTS = [
    sampled("<think>\nhm", "..."),
    sampled("<think>\nhm\n</think>\n\n", "..."),
    sampled("hm", "...", prompt=OPENED),
    sampled("", "...", prompt=OPENED),
]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("regex", {"pattern": r"^(?!.*\bsorry\b)"}),
        ("regex", {"pattern": "[^!]*", "where": "whole"}),
        ("regex", {"pattern": "(?s).{0,200}", "where": "whole"}),
        ("exact", {}),
    ],
)
def test_a_thought_without_an_answer_is_worth_nothing_where_an_empty_text_would_be_right(
    name: str, options: dict[str, Any]
) -> None:
    with Scorer(make_specs([{"name": name, **options}])) as scorer:
        assert scorer.score(THOUGHTS).values[:, 0].tolist() == [0, 0, 0, 0]
        assert scorer.score([sampled("", "...")]).values.tolist() == [[1]]


def test_a_thought_without_an_answer_passes_no_test_of_a_program_that_prints_nothing() -> None:
    row = {"tests": [{"input": "", "output": ""}]}
    assert [code(replace(one, row=row), CodeOptions()) for one in THOUGHTS] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("completion", "prompt", "expected"),
    [
        ("<think>hm</think> 13", "Question?", 1),
        ("hm</think> 13", OPENED, 1),
        ("hm</think> 13", "Question?", 0),
        ("13", "Question?", 0),
        ("hm 13", OPENED, 0),
    ],
)
def test_a_pattern_that_names_the_tags_gets_the_thought(
    completion: str, prompt: str, expected: float
) -> None:
    asked = {"name": "regex", "pattern": r"<think>.+</think>\s*{answer}", "where": "whole"}
    with Scorer(make_specs([asked])) as scorer:
        assert scorer.score([sampled(completion, "13", prompt=prompt)]).values[0, 0] == expected


def test_json_in_a_fence_after_a_thought() -> None:
    assert value("json", '<think>\n\n</think>\n\n```json\n{"a": 1}\n```') == 1
