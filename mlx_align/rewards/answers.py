"""Finding the answer in a completion, for the rewards that look at no more than that."""

from __future__ import annotations

from typing import Literal

from mlx_align.data.answers import FORMS, Form, after_thought
from mlx_align.rewards.base import Sampled

Extract = Form | Literal["auto", "whole"]
"""Where to look: in one form (see `data.answers`), in the first of them that is there and else in the whole
text ("auto"), or always in the whole text."""

EXTRACT = "where the answer stands: boxed, hash, tag, stated, whole, or auto for the first of these"


def with_opened(sampled: Sampled, tag: str) -> str:
    """The completion, begun with <tag> where the prompt has opened it already, as some chat templates do."""
    opened = f"<{tag}>"
    text = sampled.completion
    if sampled.prompt.rstrip().endswith(opened) and not text.lstrip().startswith(opened):
        return opened + text
    return text


def answer_text(sampled: Sampled) -> str:
    """The completion without its thought; empty where a thought, of the prompt's opening too, was cut off."""
    return after_thought(with_opened(sampled, "think"))


def only_thought(sampled: Sampled) -> bool:
    """Whether a thought, ended or cut off, is all that there is, so that the `answer_text` is empty.

    Nothing has been answered then. A reward by which an empty text can be right gives 0 for it all the same:
    else never ending a thought would be what earns most.
    """
    return not answer_text(sampled).strip() and bool(with_opened(sampled, "think").strip())


def find_answer(text: str, extract: Extract) -> tuple[str, Form | None] | None:
    """The part of an `answer_text` that is the answer, and the form it has; None for the whole text.

    Returns None where the form asked for is missing.
    """
    if extract == "whole":
        return text, None
    for form in FORMS if extract == "auto" else (extract,):
        if (answer := FORMS[form](text)) is not None:
            return answer, form
    return (text, None) if extract == "auto" else None
