"""However a number is written, it is read as that number; and whatever a completion is, reading it ends."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlx_align.data.answers import boxed, final_answer, hashed, stated, tagged
from mlx_align.rewards.numbers import Number, find_numbers
from mlx_align.rewards.numeric import final_number

DECIMALS = st.decimals(min_value=-(10**15), max_value=10**15, places=3, allow_nan=False, allow_infinity=False)
FORMS = st.sampled_from(
    [
        "So {} it is.",
        "x = {}",
        "\\boxed{{{}}}",
        "work 17\n#### {}",
        "<answer>{}</answer>",
        "First 17. The answer is {} and 12 more words",
        "**{}**",
        "It costs ${}.",
        "about {} km",
        "an area of {} km^2",
        "\\boxed{{{} \\text{{ m}}^{{3}}}}",
        "12 of them: the answer is easy. It is {}",
    ]
)
PIECES = (
    "\\boxed{",
    "####",
    "<answer>",
    "</answer>",
    "answer is ",
    "\\frac{",
    "10^",
    "½",
    "million",
    "<think>",
)
MARKS = st.sampled_from([*"0123456789.,-+/ %$eE^(){}=\n*_", *PIECES])


@hypothesis_settings(deadline=None)
@given(DECIMALS, FORMS, st.booleans())
def test_a_number_is_read_as_it_is_written(number: object, form: str, separated: bool) -> None:
    written = form.format(f"{number:,f}" if separated else f"{number:f}")
    found = final_number(written, "auto")
    assert found is not None
    assert found.value == Fraction(str(number))


@hypothesis_settings(deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_a_fraction_is_read_exactly(top: int, bottom: int) -> None:
    sign, size = ("-" if top < 0 else ""), abs(top)
    right = Number(Fraction(top, bottom))
    for written in (f"{top}/{bottom}", f"{top} / {bottom}", rf"{sign}\frac{{{size}}}{{{bottom}}}"):
        (found,) = find_numbers(written)
        assert found == right
    whole, rest = divmod(size, bottom)
    (mixed,) = find_numbers(f"{sign}{whole} {rest}/{bottom}")
    assert mixed == right


@hypothesis_settings(deadline=None)
@given(st.integers(-999, 999), st.integers(-30, 30))
def test_powers_of_ten_are_read_exactly(mantissa: int, power: int) -> None:
    right = [Number(Fraction(mantissa) * Fraction(10) ** power)]
    assert find_numbers(f"{mantissa}e{power}") == right
    assert find_numbers(rf"{mantissa} \times 10^{{{power}}}") == right
    assert find_numbers(f"{mantissa} × 10^{power}") == right


@hypothesis_settings(deadline=None)
@given(st.fractions(), st.fractions(), st.booleans(), st.booleans(), st.floats(0, 0.1))
def test_equality_is_what_it_says(
    one: Fraction, other: Fraction, first: bool, second: bool, within: float
) -> None:
    a, b = Number(one, first), Number(other, second)
    assert a.equals(a, within)
    assert a.equals(b, 0) == b.equals(a, 0)
    if first == second:
        assert a.equals(b, within) == (abs(one - other) <= Fraction(within) * max(1, abs(other)))


@hypothesis_settings(deadline=None)
@given(st.lists(MARKS, max_size=60).map("".join))
def test_any_text_can_be_read(text: str) -> None:
    for read in (boxed, hashed, tagged, stated, final_answer):
        found = read(text)
        assert found is None or found in text
    for number in find_numbers(text):
        assert number.equals(number, 0)
    final_number(text, "auto")
