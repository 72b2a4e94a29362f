r"""Where a text puts its final answer: \boxed{...}, "#### ...", <answer>...</answer>, "the answer is ..."."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

Form = Literal["boxed", "hash", "tag", "stated"]

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s?)?\{|\}")
_HASH = re.compile(r"####[ \t]*(?=[-+$€£¥(]{0,3}[\d.\\])(.+)$", re.MULTILINE)  # "#### Step" is a heading
_STATED = re.compile(r"(?i)\banswer(?:\s{1,3}is\b\s{0,3}:?|[\s*_]{0,4}[:=])\s{0,3}(?=\S)")
_SENTENCE_END = re.compile(r"[.;!?](?=\s|$)")


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} that is closed, as MATH's solutions end (arXiv:2103.03874)."""
    open_braces: list[tuple[int, bool]] = []
    last: tuple[int, str] | None = None
    for brace in _BRACES.finditer(text):
        if brace[0] != "}":
            open_braces.append((brace.end(), brace["box"] is not None))
        elif open_braces:
            begin, is_box = open_braces.pop()
            if is_box and (last is None or begin > last[0]):
                last = begin, text[begin : brace.start()].strip()
    return last[1] if last else None


def hashed(text: str) -> str | None:
    """What follows the last "####" on its line, as GSM8K's answers end (arXiv:2110.14168)."""
    found = _HASH.findall(text)
    return found[-1].strip() if found else None


def tagged(text: str) -> str | None:
    """What the last <answer>...</answer> encloses."""
    head, closed, _ = text.rpartition("</answer>")
    _, opened, inside = head.rpartition("<answer>")
    return inside.strip() if closed and opened else None


def stated(text: str) -> str | None:
    """The rest of the last sentence that says "answer is ..." or "answer: ..."."""
    return next(each_stated(text), None)


def each_stated(text: str) -> Iterator[str]:
    """What `stated` finds, then what the sentences before it say in the same way, the last first."""
    end = len(text)
    for found in reversed(list(_STATED.finditer(text))):
        line = text[found.end() : end].partition("\n")[0]
        yield _SENTENCE_END.split(line, maxsplit=1)[0].strip(" \t*_$\"'")
        end = found.start()


FORMS: dict[Form, Callable[[str], str | None]] = {
    "boxed": boxed,
    "hash": hashed,
    "tag": tagged,
    "stated": stated,
}
"""How to read each form; where a text has several, the earlier form here counts."""


def final_answer(text: str) -> str | None:
    """The answer that a worked solution ends with in a form that leaves no doubt: hashed, else boxed."""
    return hashed(text) or boxed(text)


def after_thought(text: str) -> str:
    """The text without what is thought in it: after the last </think>, before a <think> that stays open."""
    return text.rpartition("</think>")[2].partition("<think>")[0]
