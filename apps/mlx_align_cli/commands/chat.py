"""`mlx-align chat`: talk to a run's model, beside the model it was before."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_align.errors import ConfigError, UsageError
from mlx_align.paths import typed_new
from mlx_align_cli import naming, options
from mlx_align_cli.commands.generate import SUBJECT, Checkpoint, find_subject
from mlx_align_cli.saved import PAIRS

if TYPE_CHECKING:
    from mlx_align.chat import Hello, Voice

EXAMPLES = options.examples(
    "mlx-align chat last",
    "mlx-align chat last --compare base --temperature 0.7",
    "mlx-align chat last --compare base --blind --save mine.jsonl",
)


class Against(StrEnum):
    """Whose answers can stand beside the tuned model's."""

    BASE = "base"


Compare = Annotated[Against | None, typer.Option(help="Show this model's answers beside the tuned one's.")]
Blind = Annotated[
    bool, typer.Option("--blind", help="Shuffle the two, and tell which is which when you have chosen.")
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help=f"Where pairs are kept, for orpo, dpo and simpo (default: the run's {PAIRS})."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Runs", epilog=EXAMPLES)(chat)


def chat(
    subject: Annotated[str, SUBJECT],
    compare: Compare = None,
    blind: Blind = False,
    checkpoint: Checkpoint = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from the likeliest share.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the sampling; both models have the same.")] = 0,
    save: Save = None,
    runs_dir: options.RunsDir = None,
) -> None:
    """Talk to a run's model; with --compare base, say which answer is better, to learn from.

    /left and /right keep a pair, /help lists all commands. Ctrl-C stops an answer.
    """
    for option, given in (("--blind", blind), ("--save", save is not None)):
        if given and compare is None:
            raise ConfigError(
                f"{option} has no meaning without --compare base", hint="Give both, or neither."
            )
    place = typed_new(str(save), "--save") if save is not None else None
    who = find_subject(subject, runs_dir, checkpoint, False)
    if compare and who.adapter is None:
        raise UsageError("there is no adapter, so nothing to compare", where=subject, hint="Give a run.")
    from rich.console import Console

    from mlx_align.chat import Chat
    from mlx_align_cli.repl import Options, Repl
    from mlx_align_cli.talk import Talk

    name = f"{who.model.name} with {naming.short_path(who.adapter) if who.adapter else 'no adapter'}"
    print(f"{name}\n/help lists the commands", file=sys.stderr)
    with Chat(who.model, who.adapter, who.config.backend) as opened:
        for note in opened.hello.notes:
            print(note, file=sys.stderr)
        order = _order(opened.hello, compare is not None)
        led = Options(order, blind, place or _file(who.adapter), max_tokens, temperature, top_p)
        code = Repl(opened, Talk(system, seed), led, Console(), sys.stdin.isatty()).run()
    raise typer.Exit(code)


def _order(hello: Hello, compare: bool) -> tuple[Voice, ...]:
    """Who answers, from left to right."""
    if not compare:
        return hello.voices[:1]
    if len(hello.voices) < 2:
        raise UsageError("the base cannot be compared", hint=" ".join(hello.notes) or None)
    return ("base", "tuned")


def _file(adapter: Path | None) -> Path:
    """Where pairs are kept if nobody says so: in the run that the adapter belongs to."""
    run = naming.run_with(adapter) if adapter else None
    return run.path / PAIRS if run else Path(PAIRS)
