r"""Numbers as people and models write them: 1,234.5, -3/4, \frac{3}{4}, 1 1/2, 12%, 2 \times 10^3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 300
"""A longer number is nobody's answer; reading it could take as long as one likes."""

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_CHARACTERS = str.maketrans(
    {"\u2212": "-", "\ufe63": "-", "\uff0d": "-", "\u2044": "/", "\u00d7": "*", "\u00b7": "*", "\uff05": "%"}
    | {"¼": " 1/4", "½": " 1/2", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⅛": " 1/8"}
)

_REWRITES = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))", ","),  # 1 234 567 with spaces that do not break
        (r"\{,\}|\\[,!;:]", ","),
        (r"\\(?:left|right)(?![a-z])", ""),
        (r"\\(?:times|cdot)(?![a-z])", "*"),
        # The exponent of a unit: cm^2, \text{ cm}^{2}
        (r"(?<=[^\W\d_])([\s}]{0,3})\^\s?(?:[-+]?\d+|\{\s?[-+]?\d+\s?\}|\([-+]?\d+\))", r"\1"),
        (r"\\(?:text|mathrm|mathbf|textbf)\s?\{([^{}]*)\}", r" \1 "),
        (r"(?<=\d)\\[dtc]?frac", r" \\frac"),
        (r"\\[dtc]?frac\s?\{\s?(-?\d+)\s?\}\s?\{\s?(\d+)\s?\}", r"\1/\2"),
        (r"\\[dtc]?frac\s?(\d)\s?(\d)", r"\1/\2"),
        (r"\\([$%])", r"\1"),
        (r"[*_$]{2,4}|`", " "),  # bold and code, which would stand between a sign and its number
    )
)

_NUMBER = re.compile(
    r"""
    (?<!\w)(?<!\d\.)                               # not inside a word, nor in the middle of a number
    (?P<sign>(?<![)\]}%])[-+])?
    (?:[$€£¥]\s?(?P<after>-)?)?                     # -$5 or $-5
    (?:
        (?P<whole>\d+)\s+(?P<part>\d+)/(?P<parts>\d+)(?![/\d])
      | (?P<top>\d+)\s?/\s?(?P<bottom>\d+)(?![/\d])
      | 10\s?\^\s?[({]?(?P<ten>[-+]?\d+)[)}]?
      | (?P<integer>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<decimals>(?<!\.)\.\d+)?(?<=\d)
        (?:\s?\*\s?10\s?\^\s?[({]?(?P<power>[-+]?\d+)[)}]?|e(?P<exponent>[-+]?\d+)(?!\w))?
    )
    (?:\s{0,2}(?P<scale>thousand|million|billion|trillion)\b)?
    (?P<percent>\s{0,2}(?:%|percent\b|per\ cent\b))?
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """A number in a text.

    Attributes:
        value: what it is, exactly; 12 for "12%".
        percent: whether a percent sign or word follows.
    """

    value: Fraction
    percent: bool = False

    def equals(self, other: Number, tolerance: float) -> bool:
        """Whether they are the same within |a - b| <= tolerance * max(1, |b|), b being `other`'s value.

        Where only one of them says percent, 12% is both 12 and 0.12, as data sets write either.
        """
        margin = Fraction(tolerance)
        return any(
            abs(a - b) <= margin * max(Fraction(1), abs(b))
            for a in self._readings(beside=other)
            for b in other._readings(beside=self)
        )

    def _readings(self, beside: Number) -> list[Fraction]:
        return [self.value, self.value / 100] if self.percent and not beside.percent else [self.value]


def find_numbers(text: str) -> list[Number]:
    """All numbers in a text, in its order; units, currencies and words around them are left out."""
    text = text.translate(_CHARACTERS)
    for pattern, by in _REWRITES:
        text = pattern.sub(by, text)
    text = re.sub(r"^\s*-\s+(?=[\d.$€£¥])", "-", text)
    return [number for match in _NUMBER.finditer(text) if (number := _number(match)) is not None]


def _number(match: re.Match[str]) -> Number | None:
    if sum(map(str.isdigit, match[0])) > MAX_DIGITS:
        return None
    value = _magnitude(match)
    if value is None:
        return None
    if match["scale"]:
        value *= _SCALES[match["scale"].lower()]
    negative = (match["sign"] == "-") != (match["after"] == "-")
    return Number(-value if negative else value, percent=match["percent"] is not None)


def _magnitude(match: re.Match[str]) -> Fraction | None:
    """The number without its sign; None where it divides by zero or is too large to be meant."""
    if match["parts"] or match["bottom"]:
        top, bottom = int(match["part"] or match["top"]), int(match["parts"] or match["bottom"])
        return int(match["whole"] or 0) + Fraction(top, bottom) if bottom else None
    power = int(match["ten"] or match["power"] or match["exponent"] or 0)
    if abs(power) > MAX_DIGITS:
        return None
    digits = "1" if match["ten"] else (match["integer"] or "0").replace(",", "") + (match["decimals"] or "")
    return Fraction(digits) * Fraction(10) ** power
