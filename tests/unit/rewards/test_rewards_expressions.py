r"""How expressions are read: what comes out in Python's notation, and what is refused."""

from __future__ import annotations

import pytest

from mlx_align.rewards.expressions import FUNCTIONS, ExpressionError, read_expression


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("2x", "2 * x"),
        ("x(x+1)", "x * (x + 1)"),
        ("1/2x", "1 / 2 * x"),
        ("2^3x", "2 ** 3 * x"),
        ("2πr", "2 * pi * r"),
        (r"\dfrac{x^{2}}{3}", "((x ** (2)) / (3))"),
        (r"\frac12, \frac1{2}, \frac{1}2", "((1) / (2)) , ((1) / (2)) , ((1) / (2))"),
        (r"2\sqrt[3]{x}, √12", "2 * root(x, (3)) , sqrt(12)"),
        (r"5\text{ cm}", "5"),
        (r"10,\!000 + 1{,}000 + 2\,000", "10000 + 1000 + 2000"),
        ("f(x) = x", "x"),
        # Mixed numbers are sums.
        (r"2\frac{1}{2}", "(2 + 1 / 2)"),
        (r"-2 \tfrac12", "- (2 + 1 / 2)"),
        ("1 4/5", "(1 + 4 / 5)"),
        ("-1 4/5 x", "- (1 + 4 / 5) * x"),
        # These are products.
        (r"2\frac{x}{3}", "2 * ((x) / (3))"),
        (r"x^2\frac{1}{2}", "x ** 2 * ((1) / (2))"),
        (r"1/2\frac{x}{2}", "1 / 2 * ((x) / (2))"),
        (r"\frac12 3", "((1) / (2)) * 3"),
        # Functions with and without brackets, powers and bases.
        (r"2\sin x \cos x", "2 * sin(x) * cos(x)"),
        (r"\sin 2x + 1", "sin(2 * x) + 1"),
        (r"\sin x^2, (\sin x)^2", "sin(x ** 2) , (sin(x)) ** 2"),
        (r"\sin(x)^2", "sin(x) ** 2"),
        (r"\sin^2 x", "(sin(x) ** 2)"),
        (r"\tan^{2}(3x)", "(tan(3 * x) ** (2))"),
        (r"\sin^{-1} x, sin^-1(x), \arcsin x", "asin(x) , asin(x) , asin(x)"),
        (r"\cos\frac{\pi}{3}", "cos(((pi) / (3)))"),
        (r"\ln x(x + 1)", "log(x) * (x + 1)"),
        (r"\ln\sin x", "log(sin(x))"),
        (r"\log_2 8, \log_{2}(8), log_2(8), \log_28", " , ".join(["log(8, (2))"] * 4)),
        (r"\log_327, \log_381, \log_525", "log(27, (3)) , log(81, (3)) , log(25, (5))"),
        (r"\log_327\cdot 2 + \log_39", "log(27, (3)) * 2 + log(9, (3))"),
        (r"\log_10 100 + \log_b x", "log(100, (10)) + log(x, (b))"),
        (r"\log_10x, \log_12(x)", "log(x, (10)) , log(x, (12))"),
        (r"\log_2\frac{1}{8}", "log(((1) / (8)), (2))"),
    ],
)
def test_notation(text: str, python: str) -> None:
    assert read_expression(text) == python


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("5.", "5"),
        ("5 .", "5"),
        ("5.\n", "5"),
        ("$5$.", "5"),
        ("$5.$ .", "5"),
        (r"\(\frac12\).", "((1) / (2))"),
        (r"5\text{ cm}.", "5"),
        (r"90^\circ.", "90"),
        (r"50\%.", "50"),
    ],
)
def test_a_full_stop_ends_the_sentence_whatever_stands_before_it(text: str, python: str) -> None:
    assert read_expression(text) == python


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not an expression"),
        (r"\text{even}", "is not an expression"),
        ("five apples", "'five' is not a known name"),
        ("[2,3]", r"'\[' cannot stand there"),
        ("[2, 3)", r"'\[' cannot stand there"),
        (r"\{1, 2\}", "cannot be read"),
        ("x + 1 = 2", "is an equation"),
        ("2 3", "'3' follows directly on a number"),
        ("1 000", "'000' follows directly on a number"),
        ("1/2 3/4", "a mixed number follows on '/'"),
        (r"1/2\frac{1}{2}", "a mixed number follows on '/'"),
        (r"6 \div 2\frac12", "a mixed number follows on '/'"),
        ("10 000/5", "'000' follows directly on a number"),
        ("10 050/60", "'050' follows directly on a number"),
        ("10 500/3", "'500' follows directly on a number"),
        ("x^2 3", "'3' follows directly on a number"),
        ("1 2/3/4", "'2' follows directly on a number"),
        (r"\sin", "ends too early"),
        (r"\frac{1}", "a bracket is missing"),
        ("(x", "a bracket is not closed"),
        ("(1, 2]", "a bracket is not closed"),
        ("x)", r"'\)' is where no bracket is open"),
        ("x_1", "'_' cannot stand there"),
        ("1 +", "is not an expression"),
        ("()", "is not arithmetic"),
        ("(1, 2) + 3", "is not arithmetic"),
        ("-(1, 2)", "is not arithmetic"),
        ("(1, *x)", "is not arithmetic"),
        ("sqrt(1, 2)", "is not arithmetic"),
        ("(" * 400, "is not an expression"),
        ("1" * 501, "longer than 500 characters"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ExpressionError, match=why):
        read_expression(text)


def test_sympy_has_all_functions_that_are_read() -> None:
    pytest.importorskip("sympy")
    from mlx_align.rewards.workers.equivalence import FUNCTIONS as MADE

    assert MADE.keys() == FUNCTIONS.keys()
