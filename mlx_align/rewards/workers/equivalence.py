r"""Whether two expressions are mathematically the same, by SymPy; loaded in a scoring process only.

The text may be anything a model wrote. It is never evaluated as code, as SymPy's own parser would do: it is
cut into numbers, known names, single letters and operators, whatever else refuses it, and the syntax tree of
the rest is turned into SymPy's objects node by node.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

import sympy

LONGEST = 500
"""Characters of an expression; an honest answer is shorter."""
LARGEST_POWER = 10_000
"""Bits of a number that a power may make; more would be computed digit by digit."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(sympy, name)
    for name in (
        "sqrt",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
    )
} | {"exp": sympy.exp, "log": sympy.log, "ln": sympy.log, "abs": sympy.Abs, "root": sympy.root}
CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo, "infty": sympy.oo}
GREEK = ("alpha", "beta", "gamma", "delta", "theta", "lamda", "mu", "phi", "omega", "sigma", "rho", "tau")

_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\(?:text|mathrm|textbf|mathbf)\s?\{[^{}]*\}", " "),
        (r"\\left|\\right|\\[,!;: ]|\\[()\[\]]|\\?[$%]|\^\\circ", " "),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"\\[dt]frac", r"\\frac"),
        (r"\\frac\s?(\d)\s?(\d)", r"((\1)/(\2))"),
        (r"\\sqrt\s?(\d)", r"sqrt(\1)"),
        (r"\\(?:cdot|times)(?![a-z])|[×·]", "*"),
        (r"\\div|÷", "/"),
        ("\u2212", "-"),
        ("π", "pi"),
        ("√", "sqrt"),
        ("λ|lambda", "lamda"),
    )
)
_NESTED = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}", r"((\1)/(\2))"),
        (r"\\sqrt\s?\[(\d{1,3})\]\s?\{([^{}]*)\}", r"root(\2,\1)"),
        (r"\\sqrt\s?\{([^{}]*)\}", r"sqrt(\1)"),
        (r"\^\s?\{([^{}]*)\}", r"^(\1)"),
    )
)
_TOKEN = re.compile(r"\s*(?:(?P<number>\d+\.?\d*|\.\d+)|(?P<name>[A-Za-z]+)|(?P<operator>\*\*|[-+*/^(),]))")


class ExpressionError(ValueError):
    """The text is no expression that can be read."""


def equivalent(completion: str, *, answer: str, **rest: Any) -> float:
    """1 where both are the same expression, 0 where they are not or the completion is none.

    Raises:
        ExpressionError: the row's answer is no expression.
    """
    right = read(answer)
    try:
        return float(_same(read(completion), right))
    except ExpressionError:
        return 0.0


def read(text: str) -> Any:
    """The SymPy object, or a tuple of them, that a text in plain or LaTeX notation stands for.

    Raises:
        ExpressionError: it has anything but numbers, known names, single letters and operators.
    """
    if len(text) > LONGEST:
        raise ExpressionError(f"longer than {LONGEST} characters")
    name, equals, right = text.strip().rpartition("=")
    if equals and not re.fullmatch(r"\W*[A-Za-z](?:\([a-z]\))?\s*", name):
        raise ExpressionError(f"'{text}' is an equation")
    try:
        return _build(ast.parse(_python(right), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, TypeError):
        raise ExpressionError(f"'{text}' is not an expression") from None


def _python(text: str) -> str:
    """Python's notation, with every multiplication written out."""
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    before = ""
    while before != text:  # from the inside out
        before = text
        for pattern, by in _NESTED:
            text = pattern.sub(by, text)
    text = re.sub(r"\\(?=[A-Za-z])", " ", text.replace("{", "(").replace("}", ")").strip().rstrip("."))
    written, last = [], ""
    for kind, piece in _tokens(text):
        begins = kind in ("number", "name") or piece == "("
        if begins and (last == "ends" or (last == "function" and piece != "(")):
            written.append("*")
        written.append("**" if piece == "^" else piece)
        last = "function" if piece in FUNCTIONS else "ends" if kind != "operator" or piece == ")" else ""
    return " ".join(written)


def _tokens(text: str) -> list[tuple[str, str]]:
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"'{text[position:].strip()[:20]}' cannot be read")
        kind = str(match.lastgroup)
        token = match[kind]
        if kind == "name" and len(token) > 1 and token not in (*FUNCTIONS, *CONSTANTS, *GREEK):
            raise ExpressionError(f"'{token}' is not a known name")
        found.append((kind, token))
        position = match.end()
    return found


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
