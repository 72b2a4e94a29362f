"""`mlx-align runs ls|show|logs|rm`: looking at runs and removing them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_align_cli import naming, options
from mlx_align_cli.commands import steer
from mlx_align_cli.display.text import clean

if TYPE_CHECKING:
    from mlx_align.runs import RunDirectory

EXAMPLES = options.examples(
    "mlx-align runs ls",
    "mlx-align runs resume last",
    "mlx-align runs rm 0102-030900",
)
app = typer.Typer(no_args_is_help=True, help="List, follow, stop, resume and remove runs.", epilog=EXAMPLES)
DOOMED = typer.Argument(
    metavar="RUN", help="Runs to remove: names, parts of them, or 'last'.",
    autocompletion=options.complete_runs, show_default=False,
)  # fmt: skip
POLL_SECONDS = 0.2


@app.command("ls")
def list_(runs_dir: options.RunsDir = None, json: options.AsJson = False) -> None:
    """List all runs, newest first."""
    from mlx_align.runs import list_runs
    from mlx_align_cli.display.listing import print_runs

    root = naming.runs_root(runs_dir)
    runs = list_runs(root)
    print_runs(runs, as_json=json)
    if not runs and not json:
        print(f"no runs in {root}; `{naming.program()} orpo` starts one", file=sys.stderr)


@app.command()
def show(run: options.Run = "last", runs_dir: options.RunsDir = None, json: options.AsJson = False) -> None:
    """Show what a run is, how it went and what it left."""
    from mlx_align_cli.display.listing import print_run

    print_run(naming.find_run(runs_dir, run), as_json=json)


@app.command()
def logs(
    run: options.Run = "last",
    runs_dir: options.RunsDir = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
) -> None:
    """Print what training wrote besides its progress: libraries' warnings, and errors in full."""
    found = naming.find_run(runs_dir, run)
    offset = _print_log(found, 0)
    while follow and found.is_running():
        time.sleep(POLL_SECONDS)
        offset = _print_log(found, offset)
    if not _print_log(found, offset):
        print(f"{found.name}: the engine has written nothing", file=sys.stderr)


def _print_log(run: RunDirectory, offset: int) -> int:
    if not run.log.is_file():
        return offset
    with run.log.open("rb") as file:
        file.seek(offset)
        text = file.read()
    shown = text.decode("utf-8", errors="replace")
    sys.stdout.write(clean(shown) if sys.stdout.isatty() else shown)
    sys.stdout.flush()
    return offset + len(text)


@app.command()
def rm(
    runs: Annotated[list[str] | None, DOOMED] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All runs that failed or crashed.")] = False,
    runs_dir: options.RunsDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs with everything in them, their adapters included."""
    from mlx_align.errors import UsageError

    if not runs and not failed:
        raise UsageError("no run is named", where="RUN", hint="Name one or more, or give --failed.")
    # What nobody is asked about must be named in full.
    named = [naming.find_run(runs_dir, name, exact=yes) for name in runs or []]
    chosen = named + (_failed(runs_dir) if failed else [])
    found = list({run.path: run for run in chosen}.values())
    for run in found:
        if run.is_running():
            raise UsageError(
                f"the run '{run.name}' is running", hint=f"First `mlx-align runs stop {run.name}`."
            )
    if not found:
        print("no run has failed or crashed; nothing removed", file=sys.stderr)
        return
    if not yes and not typer.confirm(f"Remove {', '.join(map(_doomed, found))}?", err=True):
        print("nothing removed", file=sys.stderr)
        return
    for run in found:
        run.remove()
        print(f"removed {run.name}", file=sys.stderr)


def _doomed(run: RunDirectory) -> str:
    """A run's name, with what of it cannot be made again."""
    from mlx_align_cli.saved import irreplaceable

    with_it = irreplaceable(run)
    return f"{run.name} (with {with_it})" if with_it else run.name


def _failed(runs_dir: Path | None) -> list[RunDirectory]:
    from mlx_align.runs import list_runs

    every = list_runs(naming.runs_root(runs_dir))
    return [run for run in every if run.condition(run.state()) in ("failed", "crashed")]


steer.register(app)
