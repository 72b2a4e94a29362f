"""`mlx-align sft|orpo|dpo|simpo|grpo`: one command for each method in the registry."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_align import methods
from mlx_align.errors import ConfigError, UsageError
from mlx_align.methods import Method
from mlx_align.presets import presets_for
from mlx_align_cli import options, ranks
from mlx_align_cli.display import Kind, choose
from mlx_align_cli.naming import program, run_word

RESUME = typer.Option(
    metavar="RUN", rich_help_panel=options.RUNNING, help="Go on with a stopped or crashed run.",
    autocompletion=options.complete_runs,
)  # fmt: skip
DRY_RUN = typer.Option(
    "--dry-run",
    rich_help_panel=options.RUNNING,
    help="Print every setting and where it comes from; train nothing.",
)


@dataclass(frozen=True)
class Request:
    """What a training command was asked to do."""

    method: str
    named: Mapping[str, tuple[str, Any]]
    assignments: list[str] | None
    file: Any
    preset: str | None
    runs_dir: Any
    dry_run: bool
    detach: bool
    resume: str | None
    kind: Kind


def register(app: typer.Typer) -> None:
    """Add the command of every method."""
    for method in methods.METHODS.values():
        command = _command(method)
        types = {"preset": options.preset(presets_for(method.name))}
        if method.rows == "prompt":  # what a method refuses, its help need not speak of
            types |= {"reward": options.Rewards, "tokens_per_batch": options.NoTokensPerBatch}
        command.__annotations__.update(types)
        app.command(method.name, help=_help(method), epilog=_examples(method), rich_help_panel="Train")(
            command
        )


def _help(method: Method) -> str:
    rows = {
        "completion": "a prompt with one answer",
        "pair": "a prompt with a chosen and a rejected answer",
        "prompt": "a prompt, and the right answer where a reward wants one",
    }
    return f"{method.title}.\n\nA row of data is {rows[method.rows]}. Defined in {method.paper}."


def _examples(method: Method) -> str:
    reward = " --reward numeric" if method.rows == "prompt" else ""
    return options.examples(
        f"mlx-align {method.name}",
        f"mlx-align {method.name} Qwen/Qwen3-0.6B rows.jsonl{reward} --preset quick",
        f"mlx-align {method.name} tiny-chat rows.jsonl --lr 1e-4 --detach",
    )


def _command(method: Method) -> Callable[..., None]:
    def command(
        model: options.Model = None,
        data: options.Data = None,
        config: options.ConfigFile = None,
        set_: options.Set = None,
        preset: options.Preset = None,
        steps: options.Steps = None,
        epochs: options.Epochs = None,
        lr: options.Rate = None,
        batch_size: options.BatchSize = None,
        tokens_per_batch: options.TokensPerBatch = None,
        seed: options.Seed = None,
        reward: options.NoRewards = None,
        backend: options.Backend = None,
        device: options.Device = None,
        runs_dir: options.RunsDir = None,
        dry_run: Annotated[bool, DRY_RUN] = False,
        detach: options.Detach = False,
        resume: Annotated[str | None, RESUME] = None,
        display: options.Show = Kind.AUTO,
        json: options.Json = False,
    ) -> None:
        named = {
            "model.path": ("MODEL", model),
            "data.path": ("DATA", data),
            "train.steps": ("--steps", steps),
            "train.epochs": ("--epochs", epochs),
            "optim.lr": ("--lr", lr),
            "train.batch_size": ("--batch-size", batch_size),
            "train.tokens_per_batch": ("--tokens-per-batch", tokens_per_batch),
            "train.seed": ("--seed", seed),
            "rewards": ("--reward", options.reward_tables(reward)),
            "backend.name": ("--backend", backend),
            "backend.device": ("--device", device),
            "runs.dir": ("--runs-dir", runs_dir),
        }
        kind = options.display_kind(display, json)
        perform(Request(method.name, named, set_, config, preset, runs_dir, dry_run, detach, resume, kind))

    return command


def perform(request: Request) -> None:
    """Do what was asked, and exit with its code."""
    _refuse_conflicts(request)
    if request.resume is not None:
        from mlx_align_cli.commands.steer import resume_run

        raise typer.Exit(
            resume_run(request.resume, request.runs_dir, request.detach, request.kind, method=request.method)
        )
    if ranks.assists():
        raise typer.Exit(ranks.assist())
    flags = options.merge(request.named, request.assignments)
    resolved = options.resolved(request.method, flags, request.file, request.preset)
    ranks.refuse(backend=resolved.config.backend.name)
    if request.dry_run:
        from mlx_align_cli.display.listing import print_settings

        print_settings(resolved, as_json=request.kind is Kind.JSON)
        return
    from mlx_align import api

    raise typer.Exit(start(api.prepare(resolved), request.detach, request.kind))


def start(run: Any, detach: bool, kind: Kind) -> int:
    """Start an engine on a run and follow it, or leave it alone.

    Returns:
        the exit code.
    """
    from mlx_align.engine.launch import launch

    if not detach:
        return _in_foreground(run, kind)
    launch(run)
    print(run.name)
    runs = f"{program()} runs"
    print(
        f"started in the background\n  follow it  {runs} attach {run_word(run)}"
        f"\n  stop it    {runs} stop {run_word(run)}",
        file=sys.stderr,
    )
    return 0


def _in_foreground(run: Any, kind: Kind) -> int:
    from mlx_align.engine.launch import launch
    from mlx_align.runs import STOP
    from mlx_align_cli.follow import belongs_here, follow_engine

    def stop() -> None:
        run.control.request(STOP)

    earlier = run.state()
    with belongs_here(run, stop):  # also while the engine's process is coming up
        return follow_engine(run, launch(run), choose(kind), earlier)


def _refuse_conflicts(request: Request) -> None:
    ranks.refuse(detach=request.detach)
    if request.dry_run and request.detach:
        raise ConfigError(
            "--dry-run trains nothing, so there is nothing to --detach", hint="Give one of them."
        )
    model, data = request.named["model.path"][1], request.named["data.path"][1]
    if model is not None and model.endswith((".jsonl", ".json")) and not Path(model).is_dir():
        raise UsageError(
            f"'{model}' stands where the model belongs", where="MODEL",
            hint=f"The model comes first: `mlx-align {request.method} {data or 'tiny-chat'} {model}`.",
        )  # fmt: skip
    if request.resume is None:
        return
    given = [
        typed for key, (typed, value) in request.named.items() if value is not None and key != "runs.dir"
    ]
    given += ["--set"] if request.assignments else []
    given += ["-c/--config"] if request.file else []
    given += ["--preset"] if request.preset else []
    given += ["--dry-run"] if request.dry_run else []
    if given:
        raise ConfigError(
            f"a resumed run keeps its own configuration, so {', '.join(given)} would be ignored",
            where=f"--resume {request.resume}",
            hint="Leave it out, or start a new run. `runs resume --backend ... --device ...` moves a run.",
        )
