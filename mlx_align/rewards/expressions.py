r"""Expressions as people and models write them: \frac{x}{2}, 2x, \sin^2 x, \log_2 8, 1 4/5.

They come out in Python's notation, which `workers/equivalence.py` gives to SymPy. The text may be anything a
model wrote. It is cut into numbers, known names, single letters and operators; whatever else refuses it, and
nothing is evaluated.
"""

from __future__ import annotations

import ast
import re

LONGEST = 500
"""Characters of an expression; an honest answer is shorter."""

FUNCTIONS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("sqrt", "exp", "abs"), (1,)),
    **dict.fromkeys(("sin", "cos", "tan", "cot", "sec", "csc"), (1,)),
    **dict.fromkeys(("asin", "acos", "atan", "acot", "asec", "acsc"), (1,)),
    **dict.fromkeys(("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"), (1,)),
    "log": (1, 2),
    "root": (2,),
}
"""Function -> how many arguments it may have."""

NAMES = (
    *("pi", "oo"),
    *("alpha", "beta", "gamma", "delta", "theta", "lamda", "mu", "phi", "omega", "sigma", "rho", "tau"),
)
"""Known names of more than one letter."""

_ALIASES = {"ln": "log", "infty": "oo", "lambda": "lamda"} | {
    f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")
}

_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"(?<=\d)(?:,\\!|\\,|\{,\}|,)(?=\d{3}(?!\d))", ""),  # thousands
        (r"\\(?:text|mathrm|textbf|mathbf)\s?\{[^{}]*\}", " "),
        (r"\\left|\\right|\\[,!;: ]|\\[()\[\]]|\\?[$%]|\^\s?(?:\\circ|\{\s?\\circ\s?\})|°", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\(frac|sqrt)\s?(\d)", r"\\\1{\2}"),
        (r"(\\frac\s?\{[^{}]*\})\s?(\d)", r"\1{\2}"),
        (r"\\(?:cdot|times)(?![a-z])|[×·]", "*"),
        (r"\\div|÷", "/"),
        # LaTeX lowers one digit, so \log_327 has the base 3; people write \log_10 100, and \log_10 x.
        (r"_\s?(\d+(?=\s+\d|\s*[A-Za-z\\({])|\d|[A-Za-z])", r"_{\1}"),
        ("\u2212", "-"),
        ("π", " pi "),
        (r"√\s?(\d+)", r" sqrt(\1)"),
        ("√", " sqrt"),
        ("λ", " lamda "),
    )
)
_END = re.compile(r"[\s.]+\Z")
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*|\.\d+)|\\?(?P<name>[A-Za-z]+)|(?P<operator>\*\*|[-+*/^_(),{}\[\]]))"
)
_BRACKETS = {"(": ")", "{": "}", "[": "]"}
_ARITHMETIC = (
    *(ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.BinOp, ast.Call),
    *(ast.UAdd, ast.USub, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow),
)


class ExpressionError(ValueError):
    """The text is no expression that can be read."""


def read_expression(text: str) -> str:
    """An expression, or several with commas between them, in Python's notation.

    Args:
        text: in plain or LaTeX notation; "x = ..." stands for what follows.

    Raises:
        ExpressionError: it has anything but numbers, known names, single letters and operators, or these in
            an order that makes no sense; says why in a few words.
    """
    if len(text) > LONGEST:
        raise ExpressionError(f"longer than {LONGEST} characters")
    name, equals, right = text.strip().rpartition("=")
    if equals and not re.fullmatch(r"\W*[A-Za-z](?:\([a-z]\))?\s*", name):
        raise ExpressionError("it is an equation")
    for pattern, by in _REWRITES:
        right = pattern.sub(by, right)
    try:
        python = _Reader(_tokens(_END.sub("", right))).whole()
        nodes = ast.walk(ast.parse(python, mode="eval"))
    except (SyntaxError, RecursionError, MemoryError):
        raise ExpressionError("it is not an expression") from None
    if not all(map(_is_arithmetic, nodes)):  # Python would understand more
        raise ExpressionError("it is not arithmetic")
    return python


def _tokens(text: str) -> list[str]:
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"'{text[position:].strip()[:20]}' cannot be read")
        token = match[str(match.lastgroup)]
        found.append(_ALIASES.get(token, token))
        position = match.end()
    return found


def _is_arithmetic(node: ast.AST) -> bool:
    """Whether a node is what expressions are made of; several with commas between them are no operand."""
    match node:
        case ast.Expression():
            return True
        case ast.Tuple(elts=parts):
            return bool(parts)
        case ast.Call(func=ast.Name(id=name), args=parts) if len(parts) not in FUNCTIONS[name]:
            return False
    operands = ast.iter_child_nodes(node)
    return isinstance(node, _ARITHMETIC) and not any(isinstance(operand, ast.Tuple) for operand in operands)


class _Reader:
    """Tokens on their way to Python's notation, where every multiplication and every call is written out."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0

    def whole(self) -> str:
        """The expression that all tokens make.

        Raises:
            ExpressionError: they make none.
        """
        python = self._expression()
        if self._at < len(self._tokens):
            raise ExpressionError(f"'{self._next}' is where no bracket is open")
        return python

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def _expression(self) -> str:
        """Up to the bracket that closes it."""
        written = []
        while self._next and self._next not in _BRACKETS.values():
            written.append(self._take() if self._next in ("+", "-", "*", "/", ",") else self._product())
        return " ".join(written)

    def _product(self, *, argument: bool = False) -> str:
        r"""Factors with nothing between them, each with its powers.

        As an argument, \sin 2x, it ends before a bracket or another function: \sin x \cos x, \ln x (x + 1).
        """
        factors: list[str] = []
        while _begins(self._next):
            if factors and argument and (self._next in FUNCTIONS or self._next in _BRACKETS):
                break
            if factors and _is_number(self._next) and _is_number(self._tokens[self._at - 1]):
                raise ExpressionError(f"'{self._next}' follows directly on a number")
            factor = self._mixed() or self._factor()
            while self._next in ("^", "**"):
                factor = f"{factor} ** {self._script()}"
            factors.append(factor)
        if not factors:
            raise ExpressionError(f"'{self._next}' cannot stand there" if self._next else "it ends too early")
        return " * ".join(factors)

    def _factor(self) -> str:
        if self._next in ("(", "{"):
            return self._group()
        if not _begins(self._next):
            raise ExpressionError(f"'{self._next}' cannot stand there" if self._next else "it ends too early")
        piece = self._take()
        if piece == "frac":
            return f"({self._group()} / {self._group()})"
        if piece in FUNCTIONS:
            return self._call(piece)
        if len(piece) > 1 and not _is_number(piece) and piece not in NAMES:
            raise ExpressionError(f"'{piece}' is not a known name")
        return piece

    def _group(self) -> str:
        """What is in brackets, in round ones."""
        if self._next not in _BRACKETS:
            raise ExpressionError("a bracket is missing")
        closing = _BRACKETS[self._take()]
        inside = self._expression()
        if self._next != closing:
            raise ExpressionError("a bracket is not closed")
        self._at += 1
        return f"({inside})"

    def _script(self) -> str:
        """What is raised or lowered by the next token: ^, ** or _."""
        self._at += 1
        sign = self._take() if self._next in ("+", "-") else ""
        return sign + self._factor()

    def _call(self, name: str) -> str:
        r"""A function, with what LaTeX puts between it and its argument: \sqrt[3]{x}, \log_2 x, \sin^2 x."""
        second, power = "", ""
        if name == "sqrt" and self._next == "[":
            name, second = "root", f", {self._group()}"
        if name == "log" and self._next == "_":
            second = f", {self._script()}"
        if self._next in ("^", "**"):
            power = self._script()
        if power.strip("()").replace(" ", "") == "-1" and f"a{name}" in FUNCTIONS:
            name, power = f"a{name}", ""  # \sin^{-1} x is the inverse
        argument = self._group()[1:-1] if self._next in ("(", "{") else self._product(argument=True)
        call = f"{name}({argument}{second})"
        return f"({call} ** {power})" if power else call

    def _mixed(self) -> str | None:
        r"""A mixed number, if one begins here: 2\frac{1}{2} or 1 4/5, which are sums."""
        whole, *rest = self._tokens[self._at : self._at + 8]
        match rest:
            case ["frac", "{", top, "}", "{", bottom, "}", *_]:
                length = 8
            case [top, "/", bottom, *behind] if behind[:1] not in (["/"], ["^"], ["**"]):
                length = 4
            case _:
                return None
        if not (whole.isdigit() and top.isdigit() and bottom.isdigit()):
            return None
        if length == 4 and (top[0] == "0" or int(top) >= int(bottom)):
            return None  # 10 000/5 and 10 500/3 begin with a large number
        if self._tokens[self._at - 1 : self._at] == ["/"]:  # 6/2\frac12: by 2 or by the sum?
            raise ExpressionError("a mixed number follows on '/'")
        self._at += length
        return f"({whole} + {top} / {bottom})"


def _is_number(token: str) -> bool:
    return token[:1].isdigit() or token[:1] == "."


def _begins(token: str) -> bool:
    """Whether a token may be the first of a factor."""
    return _is_number(token) or token.isalpha() or token in ("(", "{")
