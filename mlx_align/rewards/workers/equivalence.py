"""Whether two expressions are mathematically the same, by SymPy; loaded in a scoring process only.

They come in Python's notation, from `rewards.expressions`. They are never evaluated as code, as SymPy's own
parser would do: the syntax tree is turned into SymPy's objects node by node.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import sympy

LARGEST_POWER = 10_000
"""Bits of a number that a power may make; more would be computed digit by digit."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(sympy, name)
    for name in (
        *("sqrt", "root", "exp", "log"),
        *("sin", "cos", "tan", "cot", "sec", "csc"),
        *("asin", "acos", "atan", "acot", "asec", "acsc"),
        *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    )
} | {"abs": sympy.Abs}
"""How to make those of `rewards.expressions`."""
CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}


class ExpressionError(ValueError):
    """The expression cannot be made."""


def equivalent(completion: str, *, answer: str, **rest: Any) -> float:
    """1 where both are the same expression, 0 where they are not or the completion's cannot be made.

    Raises:
        ExpressionError: the answer's cannot be made.
    """
    right = _made(answer)
    try:
        return float(_same(_made(completion), right))
    except ExpressionError:
        return 0.0


def _made(text: str) -> Any:
    """The SymPy object, or a tuple of them, that an expression stands for."""
    try:
        return _build(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, TypeError):
        raise ExpressionError(f"'{text}' is not an expression") from None


def _build(node: ast.expr) -> Any:
    """A syntax tree as SymPy's objects."""
    match node:
        case ast.Constant(value=int() | float()):
            return sympy.Rational(ast.unparse(node))
        case ast.Name(id=name):
            return CONSTANTS.get(name, sympy.Symbol(name))
        case ast.Tuple(elts=elements):
            return tuple(map(_build, elements))
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return -_build(operand) if isinstance(node.op, ast.USub) else _build(operand)
        case ast.BinOp(left=left, op=operator, right=right):
            return _combine(operator, _build(left), _build(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](*map(_build, arguments))
    raise ExpressionError("it has something that is not arithmetic")


def _combine(operator: ast.operator, left: Any, right: Any) -> Any:
    operations: dict[type[ast.operator], Callable[[], Any]] = {
        ast.Add: lambda: left + right,
        ast.Sub: lambda: left - right,
        ast.Mult: lambda: left * right,
        ast.Div: lambda: left / right,
        ast.Pow: lambda: _power(left, right),
    }
    if type(operator) not in operations or isinstance(left, tuple) or isinstance(right, tuple):
        raise ExpressionError("it has something that is not arithmetic")
    return operations[type(operator)]()


def _power(base: Any, exponent: Any) -> Any:
    if base.is_Rational and exponent.is_Rational:
        bits = max(base.p.bit_length(), base.q.bit_length())
        if abs(exponent) * bits > LARGEST_POWER:
            raise ExpressionError("the power is too large")
    return base**exponent


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):
        if not isinstance(one, tuple) or not isinstance(other, tuple) or len(one) != len(other):
            return False
        return all(map(_same, one, other))
    if one == other:
        return True
    equal = one.equals(other)
    return bool(sympy.simplify(one - other) == 0) if equal is None else bool(equal)
