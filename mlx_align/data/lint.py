"""What is worth a word about data that can be used: warnings, not errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from mlx_align.batch import CHOSEN, REJECTED
from mlx_align.data.rows import Row
from mlx_align.data.tokenizing import Example, Tokenized

LENGTH_RATIO = 2.0
"""Beyond this ratio of median lengths a model mostly learns length (arXiv:2403.19159 shows how readily)."""

DROPPED_SHARE = 0.1
"""Share of rows left out for their length beyond which what is learnt is another data set."""


@dataclass(frozen=True)
class Finding:
    """A warning about the data.

    Attributes:
        code: "duplicate-rows", "contradictory-pairs", "contradictory-answers", "earlier-turns",
            "length-bias", "inside-thought" or "many-dropped".
        message: what was found and why it matters, in one sentence.
        rows: the names of the rows concerned; empty where it is all of them.
    """

    code: str
    message: str
    rows: tuple[str, ...]


def lint(rows: Sequence[Row], tokenized: Tokenized) -> tuple[Finding, ...]:
    """Findings about rows and what became of them as tokens."""
    checks = (
        _duplicates(rows),
        _contradictions(rows),
        _two_answers(rows),
        _earlier_turns(rows),
        _length_bias(tokenized.examples),
        _inside_thought(tokenized.examples),
        _dropped(rows, tokenized),
    )
    return tuple(finding for finding in checks if finding is not None)


def _duplicates(rows: Sequence[Row]) -> Finding | None:
    seen: set[object] = set()
    repeated: list[str] = []
    for row in rows:
        same = (row.prompt_identity, row.answers, row.answer)
        if same in seen:
            repeated.append(row.name)
        seen.add(same)
    if not repeated:
        return None
    message = f"{len(repeated)} of {len(rows)} rows repeat an earlier one word for word and count double"
    return Finding("duplicate-rows", message, tuple(repeated))


def _contradictions(rows: Sequence[Row]) -> Finding | None:
    preferences = {(row.prompt_identity, row.answers) for row in rows if len(row.answers) == 2}
    both_ways = tuple(row.name for row in rows if (row.prompt_identity, row.answers[::-1]) in preferences)
    if not both_ways:
        return None
    message = f"{len(both_ways)} of {len(rows)} rows contradict each other: what one chooses another rejects"
    return Finding("contradictory-pairs", message, both_ways)


def _two_answers(rows: Sequence[Row]) -> Finding | None:
    """With two right answers to one prompt, a reward punishes each half of the time."""
    answers: dict[object, set[str]] = {}
    for row in rows:
        if row.answer is not None:
            answers.setdefault(row.prompt_identity, set()).add(row.answer)
    torn = tuple(row.name for row in rows if len(answers.get(row.prompt_identity, ())) > 1)
    if not torn:
        return None
    message = f"{len(torn)} of {len(rows)} rows ask what another row asks and give another right answer"
    return Finding("contradictory-answers", message, torn)


def _earlier_turns(rows: Sequence[Row]) -> Finding | None:
    """Other trainers learn every turn of the assistant, or all of `messages`; here it is the last."""
    longer = tuple(
        row.name
        for row in rows
        if row.answer_keys == ("messages",) and any(turn["role"] == "assistant" for turn in row.prompt)
    )
    if not longer:
        return None
    message = (
        f"{len(longer)} of {len(rows)} rows have earlier turns of the assistant in 'messages', which are read"
        " and not learnt: only its last turn is (to learn one of them too, make a row that ends with it)"
    )
    return Finding("earlier-turns", message, longer)


def _length_bias(examples: Sequence[Example]) -> Finding | None:
    pairs = [example.branch_ids for example in examples if len(example.branch_ids) == 2]
    if not pairs:
        return None
    chosen = median(len(pair[CHOSEN]) for pair in pairs)
    rejected = median(len(pair[REJECTED]) for pair in pairs)
    if 1 / LENGTH_RATIO <= chosen / rejected <= LENGTH_RATIO:
        return None
    message = (
        f"the median chosen answer has {chosen:g} tokens and the median rejected one {rejected:g}:"
        " the model may learn the length instead of the preference"
    )
    return Finding("length-bias", message, ())


def _inside_thought(examples: Sequence[Example]) -> Finding | None:
    """Some templates open a thought for the assistant: an answer that never closes it is taught as one."""
    inside = [
        example.name
        for example in examples
        if example.prompt_text.rstrip().endswith("<think>")
        and any("</think>" not in answer for answer in example.answers)
    ]
    if not inside:
        return None
    message = (
        f"the chat template opens <think> before {len(inside)} answers that never close it:"
        " the model would learn to answer inside its thought"
    )
    return Finding("inside-thought", message, tuple(inside))


def _dropped(rows: Sequence[Row], tokenized: Tokenized) -> Finding | None:
    if len(tokenized.dropped) <= DROPPED_SHARE * len(rows):
        return None
    message = f"{len(tokenized.dropped)} of {len(rows)} rows are too long and were left out"
    return Finding("many-dropped", message, tokenized.dropped)
