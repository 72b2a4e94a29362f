"""What the export screen says of itself and of its targets."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_align_cli.saved import USUAL_ADAPTER
from mlx_align_tui.live.targets import KINDS, LOADERS, needs_of
from mlx_align_tui.plain import plain

HELP = f"""\
# Export

An adapter goes to where it is used. Mark targets with <<export.mark>>, look at their options with
<<export.options>>, and <<export.go>> exports them one after the other; without a mark it is the target under
the cursor. **step** says which of the run's checkpoints they get; unless you say otherwise it is
{USUAL_ADAPTER}.

Every export is loaded by the program that will use it (*tried with*) and compared with the model that was
trained. **KL from the model that was trained** says how far the export's answers are from it, in nats: it
should be far below the **KL between it and its base**, which is what the training has changed. **Of what was
learnt** should be near 100%. An export that differs is not left there.

What cannot be tried here, because the program is missing, is written and said to be *not verified*.

<<export.cancel>> cancels, and nothing is left of what was under way; <<export.copy>> copies the next command.
Under **exports** lies what this run has already; <<export.verify>> verifies it again.
"""
BEGIN = "mark targets under <<export.choose_tab>>, then <<export.go>>."


def about(name: str, values: Mapping[str, str], here: frozenset[str] | None) -> str:
    """Whom a target is for, and what is missing for it; Textual markup.

    Args:
        name: the target.
        values: what was chosen for it.
        here: what this machine has; None while that is not known.
    """
    loaders, place = needs_of(name, values)
    lines = [f"[b $accent]{name}[/]  [$quiet]{KINDS[name].says}[/]", KINDS[name].about]
    if here is not None:
        missing = [] if here & set(loaders) else [loaders[0]]
        missing += [place] if place is not None and place not in here else []
        for need in missing:
            name, install = LOADERS[need]
            lines.append(f"[$warning]✘ {name} is not here:[/] {plain(install)}")
    return "\n".join(lines)
