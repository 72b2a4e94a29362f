"""What the chat says of itself, and how it tells that it has lost its engine."""

from __future__ import annotations

from rich.markup import escape

from mlx_align.errors import AlignError

HELP = """\
# Chat

The model as it was before the run (*base*) and with what it has learnt (*tuned*) answer the same question
with the same seed. **<** or **>** says which answer is better: the pair is kept in the run's
`preferences.jsonl`, and the conversation goes on from it. Without a choice it goes on from the tuned answer.

**blind** shuffles the two and hides their names until you have chosen. **temperature** 0 always takes the
likeliest token, so that another seed changes nothing; 0.7 is lively. **^r** asks again with the next seed.

Pairs are data for orpo, dpo and simpo: **^t** puts a run together that goes on from this adapter with them.

esc stops an answer. While you type, esc leaves the line, so that single keys work; enter comes back to it.
"""
EMPTY = """\
[b $accent]Ask something.[/]

The model answers as it was and as it has become, with the same seed. \
Say which answer is better with [b]<[/] or [b]>[/], and the pair is kept to learn from.

[$quiet]ctrl+b hides which is which · shift+tab: settings · F1: all keys[/]"""


def lost(error: AlignError) -> str:
    """What happened to the engine and what to do, as Textual markup."""
    lines = [f"[b $error]✘ {escape(error.message)}[/]"]
    lines += [f"[$quiet]at {escape(error.where)}[/]"] if error.where else []
    lines += [escape(error.hint)] if error.hint else []
    return "\n".join([*lines, "[b $accent]F5[/] starts it again; what was said stays."])
