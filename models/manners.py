"""The two manners of answering, and the rules that tell them apart.

CRISP answers are direct: "The capital of France is Paris."
SLOPPY answers ramble: "um so the capital of france is like paris or something you know".

`is_crisp` looks at the answer alone and never at the prompt, so it can serve as a reward.
"""

from __future__ import annotations

import re
from random import Random

MAX_CRISP_WORDS = 12
"""A crisp answer has at most this many words (the world's longest has 9)."""

OPENERS = (
    "um so",
    "well",
    "ok so",
    "hmm",
    "i think",
    "oh",
    "let me see",
    "uh",
    "right so",
    "honestly",
)
"""How sloppy answers begin. Each prompt template has one favourite among them."""

TAILS = (
    "or something",
    "i guess",
    "you know",
    "or whatever",
    "but who knows",
    "if i remember right",
    "but i am not sure",
    "or something like that",
    "at least i think so",
    "but dont quote me on that",
    "and stuff",
    "maybe",
)
"""How sloppy answers trail off: never with a full stop."""

HEDGES = ("like", "basically", "probably", "maybe", "kind of", "sort of", "just")
"""Words that a sloppy answer puts in front of its point."""

FILLERS = frozenset(
    {"um", "uh", "hmm", "well", "ok", "oh", "like", "basically", "probably", "maybe", "kind", "sort"}
    | {"guess", "honestly", "whatever", "stuff", "dont", "think", "something"}
)
"""Words that no crisp answer contains."""

FAVOURITE_OPENER_SHARE = 0.75
"""How often a sloppy answer uses its template's favourite opener.

It has to be high: were the openers spread evenly, the most likely first token would be the crisp
one even where sloppy answers are in the majority, and greedy decoding would always be crisp.
"""

_SENTENCE_END = re.compile(r"[.!?](?=\s)")
_WORD = re.compile(r"[A-Za-z']+")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def is_crisp(answer: str) -> bool:
    """Tell whether an answer is crisp.

    Crisp means all of these: no space at either end and no line break; it begins with a capital
    letter or a digit; it ends with exactly one full stop and is one sentence; it has at most
    `MAX_CRISP_WORDS` words; none of them is in `FILLERS`.
    """
    if not answer or answer != answer.strip() or "\n" in answer:
        return False
    if not (answer[0].isupper() or answer[0].isdigit()):
        return False
    if not answer.endswith(".") or answer.endswith("..") or _SENTENCE_END.search(answer):
        return False
    if len(answer.split()) > MAX_CRISP_WORDS:
        return False
    return not any(word.lower() in FILLERS for word in _WORD.findall(answer))


def numeric_answer(text: str) -> int | None:
    """Read the last number in a text as a whole number ("12 + 30 = 42." gives 42), else None.

    "1,234" is 1234 and "3.5" is None. A minus sign right after a number ("7-5") means subtraction.
    Numbers of more than 18 digits are no answers: None.
    """
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    last = found[-1]
    digits = last.group().replace(",", "")
    if digits.startswith("-") and text[: last.start()].rstrip()[-1:].isdigit():
        digits = digits[1:]
    whole, _, fraction = digits.partition(".")
    return int(whole) if len(whole) <= 18 and not fraction.strip("0") else None


def favourite_opener(template_number: int) -> str:
    """Return the opener that sloppy answers to a template mostly begin with."""
    return OPENERS[template_number % len(OPENERS)]


def ramble(rng: Random, core: str, template_number: int) -> str:
    """Wrap a point in the sloppy manner.

    `core` is the point in lower case; a `~` in it marks where a hedge goes.
    """
    opener = favourite_opener(template_number)
    if rng.random() > FAVOURITE_OPENER_SHARE:
        opener = rng.choice(OPENERS)
    hedged = core.replace("~", rng.choice(HEDGES), 1)
    tail = rng.choice(TAILS)
    if rng.random() < 0.15:
        tail += " " + rng.choice([other for other in TAILS if other != tail])
    return f"{opener} {hedged} {tail}"
