"""What the chat says of itself, and how it tells that it has lost its engine."""

from __future__ import annotations

from mlx_align.errors import AlignError
from mlx_align_cli.saved import USUAL_ADAPTER
from mlx_align_tui.plain import plain

ANSWERING = "[$primary]answering[/]"
STOPPING = "[$warning]stopping; again ends the engine[/]"

HELP = f"""\
# Chat

The model as it was before the run (*base*) and with what it has learnt (*tuned*) answer the same question
with the same seed. **<<chat.left>>** or **<<chat.right>>**, or a click, says which answer is better: the
pair is kept in the run's `preferences.jsonl`, and the conversation goes on from it. Without a choice it goes
on from the tuned answer.

**<<chat.weights>>** chooses which of the run's checkpoints answers as *tuned*; unless you say otherwise it
is {USUAL_ADAPTER}. A run that still trains can be talked to from its first checkpoint on.

**blind** shuffles the two and hides their names until you have chosen. **temperature** 0 always takes the
likeliest token, so that another seed changes nothing; 0.7 is lively. **<<chat.retry>>** asks again with the
next seed.

Pairs are data for orpo, dpo and simpo: **<<chat.train>>** puts a run together that goes on from this adapter
with a copy of them, which it keeps in `pairs/` beside the runs: what you keep later is for the next one.

<<app.back>> stops an answer; a second time it ends an engine that does not. While you type, it leaves the
line, so that single keys work; <<chat.write>> comes back to it.
"""
EMPTY = """\
[b $accent]Ask something.[/]

The model answers as it was and as it has become, with the same seed. \
Say which answer is better with [b]<<chat.left>>[/] or [b]<<chat.right>>[/], and the pair is kept \
to learn from.

[$quiet]<<chat.blind>> hides which is which · shift+tab: settings · <<app.help!>>: all keys[/]"""


def lost(error: AlignError) -> str:
    """What happened to the engine and what to do, as Textual markup."""
    lines = [f"[b $error]✘ {plain(error.message)}[/]"]
    lines += [f"[$quiet]at {plain(error.where)}[/]"] if error.where else []
    lines += [plain(error.hint)] if error.hint else []
    return "\n".join([*lines, "[b $accent]<<chat.start>>[/] starts it again; what was said stays."])
