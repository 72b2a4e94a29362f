"""`mlx-align generate`: ask a base model, or a run's adapter, one question."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_align import embedded
from mlx_align.errors import ConfigError, UsageError
from mlx_align.paths import typed
from mlx_align_cli import naming, options
from mlx_align_cli.display.text import clean
from mlx_align_cli.saved import USUAL_ADAPTER

if TYPE_CHECKING:
    from mlx_align.config import RunConfig

SUBJECT = typer.Argument(
    metavar="RUN_OR_MODEL", help="A run (its name, a part of it, 'last'), or a model.",
    autocompletion=options.complete_runs, show_default=False,
)  # fmt: skip
PROMPT = typer.Argument(
    metavar="PROMPT", help="What to ask; '-' or nothing reads it from stdin.", show_default=False
)
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="NAME",
        help=f"Use this checkpoint of the run, e.g. step-000050, or 'best' (default: {USUAL_ADAPTER}).",
    ),
]  # fmt: skip
EXAMPLES = options.examples(
    'mlx-align generate last "What is 17 + 26?"',
    'mlx-align generate last "What is 17 + 26?" --base',
    'mlx-align generate last "Tell me a story" --checkpoint best --temperature 0.7',
)


EXAMPLE = 'For example: `mlx-align generate last "Hello"`.'


@dataclass(frozen=True)
class Subject:
    """Who answers."""

    config: RunConfig
    model: Path
    adapter: Path | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Runs", epilog=EXAMPLES)(generate)


def generate(
    subject: Annotated[str, SUBJECT],
    prompt: Annotated[str | None, PROMPT] = None,
    checkpoint: Checkpoint = None,
    base: Annotated[bool, typer.Option("--base", help="Leave the run's adapter out.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from the likeliest share.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the sampling.")] = 0,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system message.")] = None,
    runs_dir: options.RunsDir = None,
    json: options.AsJson = False,
) -> None:
    """Ask a model, or a run's adapter, and print its answer on stdout."""
    if base and checkpoint:
        raise ConfigError("--base and --checkpoint contradict each other", hint="Give one of them.")
    question = _question(prompt)
    who = find_subject(subject, runs_dir, checkpoint, base)
    print(f"{who.model.name} with {who.adapter or 'no adapter'}", file=sys.stderr)
    from mlx_align.engine.generate import generate_text
    from mlx_align.engine.tokenizer import spare_torch

    spare_torch(who.config.backend.name)
    answer = generate_text(
        who.config, who.model, who.adapter, [question],
        system=system, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed,
    )[0]  # fmt: skip
    if json:
        facts = {"prompt": question, "completion": answer, "model": str(who.model)}
        print(jsonlib.dumps({**facts, "adapter": str(who.adapter) if who.adapter else None}))
    else:
        print(clean(answer) if sys.stdout.isatty() else answer)


def _question(prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        if not prompt.strip():
            raise UsageError("the prompt is empty", where="PROMPT", hint=EXAMPLE)
        return prompt
    if prompt is None and sys.stdin.isatty():
        raise UsageError("there is no prompt", where="PROMPT", hint=EXAMPLE)
    text = sys.stdin.read().strip("\n")
    if not text.strip():
        raise UsageError("the prompt from stdin is empty", where="PROMPT")
    return text


def find_subject(name: str, runs_dir: Path | None, checkpoint: str | None, base: bool) -> Subject:
    """The run or model that a name means: a run comes first, unless the name is plainly a model.

    Raises:
        UsageError: there is no such run or model, or the run has no adapter yet.
    """
    from mlx_align.hub import resolve_model
    from mlx_align.runs import find
    from mlx_align.runs.chosen import adapter_of, model_of

    path = typed(name)
    if os.path.isfile(path / "adapter_config.json"):  # Path.is_file raises for a name that is too long
        path, checkpoint = _run_of(path, checkpoint, base)
    is_run_path = os.path.isfile(path / "config.toml")
    if name == embedded.TINY_CHAT or (not is_run_path and ("/" in name or os.path.isdir(path))):
        if checkpoint or base:
            raise ConfigError(
                f"'{name}' is a model; it has no adapter to choose", where="--checkpoint, --base"
            )
        return Subject(options.resolved(None, {}).config, resolve_model(name).folder, None)
    try:
        run = find(naming.runs_root(runs_dir), str(path.resolve()) if is_run_path else name)
    except UsageError as error:
        hint = f"{error.hint} A model is 'tiny-chat', a folder, or owner/name on the hub."
        raise UsageError(error.message, where=error.where, hint=hint) from None
    return Subject(run.config(), model_of(run), None if base else adapter_of(run, checkpoint))


def _run_of(adapter: Path, checkpoint: str | None, base: bool) -> tuple[Path, str | None]:
    """The run that an adapter's or checkpoint's folder belongs to, and the checkpoint that is meant.

    Raises:
        UsageError: it belongs to none.
    """
    folder = adapter.resolve()
    if (folder.parent / "config.toml").is_file() and folder.name == "adapter":
        return folder.parent, checkpoint
    if (folder.parent.parent / "config.toml").is_file() and folder.parent.name == "checkpoints":
        return folder.parent.parent, checkpoint if checkpoint or base else folder.name
    raise UsageError(
        "this is an adapter, and no run that says which model it belongs to", where=str(adapter),
        hint="Use mlx-lm: mlx_lm.generate --model MODEL --adapter-path " + str(adapter),
    )  # fmt: skip
