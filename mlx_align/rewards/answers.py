"""Finding the answer in a completion, for the rewards that compare it with the row's."""

from __future__ import annotations

from typing import Literal

from mlx_align.data.answers import FORMS, Form, after_thought

Extract = Form | Literal["auto", "whole"]
"""Where to look: in one form (see `data.answers`), in the first of them that is there and else in the whole
text ("auto"), or always in the whole text."""

EXTRACT = "where the answer stands: boxed, hash, tag, stated, whole, or auto for the first of these"


def find_answer(completion: str, extract: Extract) -> tuple[str, Form | None] | None:
    """The part of a completion that is its answer, and the form it has; None for the whole text.

    What is thought is left out. Returns None where the form asked for is missing.
    """
    text = after_thought(completion)
    if extract == "whole":
        return text, None
    for form in FORMS if extract == "auto" else (extract,):
        if (answer := FORMS[form](text)) is not None:
            return answer, form
    return (text, None) if extract == "auto" else None
