"""Options and arguments that several commands share, and what they mean as configuration keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_align.errors import ConfigError
from mlx_align.presets import PRESETS
from mlx_align.settings import Resolved, from_assignments, gather, resolve
from mlx_align_cli.display import Kind
from mlx_align_cli.naming import runs_root

SETTINGS, LENGTH, RUNNING = "Settings", "The usual settings", "How it runs"


def complete_runs(incomplete: str) -> list[str]:
    """Names of runs for the shell's completion; never an error."""
    from mlx_align.errors import AlignError
    from mlx_align.runs import list_runs

    try:
        names = ["last", *(run.name for run in list_runs(runs_root()))]
    except (AlignError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_presets(incomplete: str) -> list[str]:
    """Names of presets for the shell's completion."""
    return [name for name in PRESETS if name.startswith(incomplete)]


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="'tiny-chat' (the default), a local folder or a Hugging Face id.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A .jsonl file, a folder with train.jsonl, or 'sample' (the default).",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        rich_help_panel=SETTINGS,
        help="A TOML file with settings (see config init).",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=SETTINGS,
        help="Set any key, e.g. --set adapter.rank=32. Repeatable.",
    ),
]


def preset(names: Iterable[str]) -> Any:
    """The type of `--preset`, whose help lists these names."""
    option = typer.Option(
        metavar="|".join(names), rich_help_panel=SETTINGS, help="A set of defaults to start from.",
        autocompletion=complete_presets,
    )  # fmt: skip
    return Annotated[str | None, option]


Preset = preset(PRESETS)
Steps = Annotated[int | None, typer.Option(rich_help_panel=LENGTH, help="Optimiser updates.")]
Epochs = Annotated[float | None, typer.Option(rich_help_panel=LENGTH, help="Passes over the data.")]
Rate = Annotated[float | None, typer.Option("--lr", rich_help_panel=LENGTH, help="Peak learning rate.")]
BatchSize = Annotated[int | None, typer.Option(rich_help_panel=LENGTH, help="Rows in one forward pass.")]
TokensPerBatch = Annotated[
    int | None,
    typer.Option(rich_help_panel=LENGTH, help="Or so many tokens at most, padding included."),
]
NoTokensPerBatch = Annotated[int | None, typer.Option("--tokens-per-batch", hidden=True)]
Seed = Annotated[int | None, typer.Option(rich_help_panel=LENGTH, help="Seeds everything that is random.")]
Backend = Annotated[
    str | None, typer.Option(metavar="mlx|torch", rich_help_panel=LENGTH, help="The framework that trains.")
]
Device = Annotated[
    str | None,
    typer.Option(metavar="auto|cpu|gpu|cuda|mps", rich_help_panel=LENGTH, help="Where it computes."),
]
Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME[=WEIGHT]",
        rich_help_panel=LENGTH,
        help="What answers are scored by, or file.py:function. Repeatable.",
    ),
]
NoRewards = Annotated[list[str] | None, typer.Option("--reward", hidden=True)]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", rich_help_panel=RUNNING, help="The folder that holds the runs (default: runs)."
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach", rich_help_panel=RUNNING, help="Start it and return; print the run's name.")
]
Show = Annotated[
    Kind,
    typer.Option(
        "--display", rich_help_panel=RUNNING, help="How progress is shown (on stderr; json: on stdout)."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", rich_help_panel=RUNNING, help="Stream the events as JSON lines to stdout.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name, a part of it, or 'last'.",
        autocompletion=complete_runs,
        show_default=False,
    ),
]


def examples(*lines: str) -> str:
    """The end of a help page: command lines to copy."""
    return "\n\n".join(["[dim]For example[/dim]", *(line.replace("[", "\\[") for line in lines)])


def display_kind(display: Kind, json: bool) -> Kind:
    """The display that two options ask for together.

    Raises:
        ConfigError: they contradict each other.
    """
    if json and display not in (Kind.AUTO, Kind.JSON):
        raise ConfigError(f"--json and --display {display} contradict each other", hint="Give one of them.")
    return Kind.JSON if json else display


def merge(named: Mapping[str, tuple[str, Any]], assignments: list[str] | None) -> dict[str, Any]:
    """Flags and `--set` options as one layer.

    Args:
        named: dotted key -> (the option as typed, its value or None).
        assignments: the `--set` options.

    Raises:
        ConfigError: a key is given both ways.
    """
    given = {key: value for key, (_, value) in named.items() if value is not None}
    values = from_assignments(assignments or [])
    for key in given.keys() & values.keys():
        raise ConfigError(
            f"'{key}' is set twice, by {named[key][0]} and by --set",
            where="command line",
            hint="Set it once.",
        )
    return {**values, **{key: str(v) if isinstance(v, Path) else v for key, v in given.items()}}


def reward_tables(texts: list[str] | None) -> list[dict[str, Any]] | None:
    """The [[rewards]] tables that `--reward` options stand for; None if there are none.

    Raises:
        UsageError: there is no such reward, or its weight is not a number.
    """
    if not texts:
        return None
    from mlx_align.rewards import parse_reward  # loads numpy, which `--help` does without

    return [parse_reward(text) for text in texts]


def resolved(
    method: str | None, flags: Mapping[str, Any], file: Path | None = None, preset: str | None = None
) -> Resolved:
    """The checked configuration of a command."""
    return resolve(gather(method, flags=flags, file=file, preset=preset))
