"""The numeric reward: which number a completion ends with, and which numbers are the same."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest

from mlx_align.rewards.numbers import find_numbers
from tests.rewarded import value


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("42", ["42"]),
        ("-42 and +7", ["-42", "7"]),
        ("\u22125", ["-5"]),
        ("- 5", ["-5"]),
        ("10-5", ["10", "5"]),
        ("12 - 5 = 7", ["12", "5", "7"]),
        ("(x)-5", ["5"]),
        ("x = -5", ["-5"]),
        (".5 and 0.25.", ["1/2", "1/4"]),
        ("...42", ["42"]),
        ("1,234,567.5", ["2469135/2"]),
        ("1\u202f234\u202f567", ["1234567"]),
        ("1{,}000 or 1\\,000", ["1000", "1000"]),
        ("1,5", ["1", "5"]),
        ("(1,2)", ["1", "2"]),
        ("100 200", ["100", "200"]),
        ("3/4 of -1/2", ["3/4", "-1/2"]),
        (r"\frac{3}{4}, \dfrac{-3}{4}, -\tfrac34", ["3/4", "-3/4", "-3/4"]),
        (r"1 1/2, 1½, ¾, 1\frac{3}{4}", ["3/2", "3/2", "3/4", "7/4"]),
        ("1/0", []),
        ("$18.90, -$5, $-5, €3, \\$7", ["189/10", "-5", "-5", "3", "7"]),
        ("5 km, 5km, 42nd", ["5", "5", "42"]),
        ("$3 million, 2.5 Billion", ["3000000", "2500000000"]),
        ("1.5e3, 1.5E-3, 2e", ["1500", "3/2000", "2"]),
        (r"1.5 \times 10^{3}, 2 × 10^-3, 10^6", ["1500", "1/500", "1000000"]),
        ("**42**, `7`, $$8$$, $9$", ["42", "7", "8", "9"]),
        (r"42\text{ apples}", ["42"]),
        ("5 cm^2, 9.8 m/s^2, 3 kg m^-3, 2 s^{-1}, 4 m^(2)", ["5", "49/5", "3", "2", "4"]),
        (r"5 \text{ cm}^2, 6 \mathrm{~m}/\mathrm{s}^{2}, 7\text{ m }^3", ["5", "6", "7"]),
        ("5 s^\u22122", ["5"]),
        ("10^2 cm^2, 2 × 10^3 m^2", ["100", "2000"]),
        ("2^10, 2^{10}, {10}^6, (3)^2", ["2", "10", "2", "10", "10", "6", "3", "2"]),
        ("x^2-3", ["3"]),
        ("abc5, x_1, v1.2.3", []),
        ("٤٢", ["42"]),
        ("1e999999999, " + "9" * 5000, []),
        ("", []),
    ],
)
def test_numbers_as_people_write_them(text: str, numbers: list[str]) -> None:
    assert [str(number.value) for number in find_numbers(text)] == numbers


def test_percent_is_a_mark_beside_the_number() -> None:
    found = find_numbers(r"12%, 12\%, 12 percent, 12 per cent, 12")
    assert [(number.value, number.percent) for number in found] == [(Fraction(12), True)] * 4 + [(12, False)]


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("The sum is 46.", "46", 1),
        ("45 + 1 = 46", "46", 1),
        ("It is 46, or 47.", "46", 0),
        ("I do not know.", "46", 0),
        ("", "46", 0),
        ("So #### 1,000\nBye 7", "1000", 1),
        (r"Thus \boxed{\frac{3}{4}}, which is 75 hundredths", "0.75", 1),
        (r"\boxed{3} no, \boxed{4}", "4", 1),
        (r"\boxed{3} no, \boxed{4}", "3", 0),
        (r"The number is 5. \boxed{}", "5", 0),
        ("<answer> 5 apples </answer> and 7 more words", "5", 1),
        ("The answer is 42 because 6 * 7 is that.", "42", 1),
        ("The answer is 2 + 3 = 5 apples for 4 children.", "5", 1),
        ("**Answer:** 42\nThat took 3 steps.", "42", 1),
        ("The answer is simple: add them. 6 + 7 = 13", "13", 1),
        ("answer: see below.\n\nIt is 13.", "13", 1),
        ("The answer is 13. In words, the answer is thirteen, of 2 digits.", "13", 0),
        ("The answer is 13. In words, the answer is thirteen. It has 2 digits.", "13", 1),
        ("Answer: 12? No, answer: 13. That answer is final. It took 2 steps.", "13", 1),
        ("<think>The answer is 12.</think>The answer is as follows.\n13", "13", 1),
        ("Answer: Let x be 3. Then 10 + 3 = 13", "3", 1),
        (r"\boxed{5 \text{ cm}^2}", "5", 1),
        ("The area is 10 cm^2", "10 cm^2", 1),
        ("It is 9.8 m/s^2.", "9.8", 1),
        ("<think>maybe 46</think> It is 47.", "46", 0),
        ("<think>It must be 46", "46", 0),
        ("maybe 47</think>It is 46.", "46", 1),
        ("50%", "0.5", 1),
        ("50%", "50", 1),
        ("0.5", "50%", 1),
        ("0.5%", "50", 0),
        ("5000%", "50%", 0),
        ("-46", "46", 0),
        ("$18.90", "18.9 dollars", 1),
    ],
)
def test_the_number_that_counts(completion: str, answer: str, expected: float) -> None:
    assert value("numeric", completion, answer) == expected


def test_tolerance_is_relative_above_one_and_absolute_below() -> None:
    assert value("numeric", "1000.9", "1000", tolerance=1e-3) == 1
    assert value("numeric", "1001.1", "1000", tolerance=1e-3) == 0
    assert value("numeric", "0.0009", "0", tolerance=1e-3) == 1
    assert value("numeric", "0.3333333333", "1/3") == 1
    assert value("numeric", "0.3333333333", "1/3", tolerance=0) == 0


def test_only_the_form_asked_for_counts() -> None:
    assert value("numeric", "It is 46.", "46", extract="boxed") == 0
    assert value("numeric", r"\boxed{45} 46", "46", extract="whole") == 1
    assert value("numeric", "The answer is simple. 46", "46", extract="stated") == 0
    assert value("numeric", "The answer is 46. That answer is final. 47", "46", extract="stated") == 1


def test_an_answer_that_is_not_one_number_fails_and_is_not_a_wrong_completion() -> None:
    assert math.isnan(value("numeric", "3", "3 or 4"))
    assert math.isnan(value("numeric", "3", None))


def test_every_answer_of_the_sample_prompts_is_one_number() -> None:
    from mlx_align import embedded
    from mlx_align.data import parse_row, read_jsonl
    from mlx_align.rewards import check_rows, make_specs

    files: list[Path] = sorted((embedded.samples_folder() / "prompts").glob("*.jsonl"))
    assert len(files) == 3
    for file in files:
        check_rows(
            make_specs([{"name": "numeric"}]), [parse_row("prompt", file, *row) for row in read_jsonl(file)]
        )
