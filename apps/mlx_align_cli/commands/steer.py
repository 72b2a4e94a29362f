"""`mlx-align runs attach|stop|checkpoint|resume`: what one does to a run that is there."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_align.errors import ConfigError, UsageError
from mlx_align_cli import naming, options, ranks
from mlx_align_cli.commands.train import start
from mlx_align_cli.display import Kind, choose

if TYPE_CHECKING:
    from mlx_align.runs import RunDirectory

POLL_SECONDS = 0.1


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (attach, stop, checkpoint, resume):
        app.command()(command)


def attach(
    run: options.Run = "last",
    runs_dir: options.RunsDir = None,
    display: options.Show = Kind.AUTO,
    json: options.Json = False,
) -> None:
    """Show a run from its beginning and follow it. Ctrl-C stops looking; the run goes on."""
    from mlx_align.engine.launch import attach as attach_to
    from mlx_align_cli.follow import follow_attached

    found = naming.find_run(runs_dir, run)
    shown = choose(options.display_kind(display, json))
    raise typer.Exit(follow_attached(found, attach_to(found), shown))


def stop(
    run: options.Run,
    runs_dir: options.RunsDir = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has stopped.")] = True,
    now: Annotated[
        bool, typer.Option("--now", help="End one that does not answer; what it had saved stays.")
    ] = False,
) -> None:
    """Ask a running run to save a checkpoint and stop."""
    from mlx_align.engine.launch import kill
    from mlx_align.runs import STOP
    from mlx_align_cli.follow import last_checkpoint

    found = naming.find_run(runs_dir, run)
    pid = found.pid()
    if not found.is_running():
        raise UsageError(
            f"the run '{found.name}' is not running", hint="`mlx-align runs ls` shows which are."
        )
    if now:
        kill(found, pid)
        print(f"{found.name}: killed" + (", waiting for it to end" if wait else ""), file=sys.stderr)
    else:
        found.control.request(STOP)
        print(f"{found.name}: saving a checkpoint and stopping; --now would end it at once", file=sys.stderr)
    while wait and found.is_running():
        time.sleep(POLL_SECONDS)
    if now:
        print(f"{found.name}: {last_checkpoint(found)}", file=sys.stderr)
    elif wait:
        state = found.state()
        print(f"{found.name}: {found.condition(state)} at step {state.step:,}", file=sys.stderr)


def checkpoint(run: options.Run, runs_dir: options.RunsDir = None) -> None:
    """Ask a running run to save a checkpoint and go on."""
    from mlx_align.runs import CHECKPOINT

    found = naming.find_run(runs_dir, run)
    if not found.is_running():
        raise UsageError(
            f"the run '{found.name}' is not running", hint="`mlx-align runs ls` shows which are."
        )
    found.control.request(CHECKPOINT)
    print(f"{found.name}: a checkpoint is asked for", file=sys.stderr)


def resume(
    run: options.Run,
    backend: options.Backend = None,
    device: options.Device = None,
    runs_dir: options.RunsDir = None,
    detach: options.Detach = False,
    display: options.Show = Kind.AUTO,
    json: options.Json = False,
) -> None:
    """Go on with a stopped, failed or crashed run from its last checkpoint.

    With --backend or --device it goes on there: the run's own configuration is rewritten to say so.
    """
    given = {key: value for key, value in (("name", backend), ("device", device)) if value is not None}
    raise typer.Exit(resume_run(run, runs_dir, detach, options.display_kind(display, json), moved=given))


def resume_run(
    name: str,
    runs_dir: Path | None,
    detach: bool,
    kind: Kind,
    method: str | None = None,
    moved: dict[str, str] | None = None,
) -> int:
    """Start an engine on a run that has ended early.

    Args:
        name: the run.
        runs_dir: as given on the command line.
        detach: whether to leave it alone then.
        kind: how it is shown.
        method: what the run's method must be, None for any.
        moved: keys of the run's `[backend]` section to change first.

    Returns:
        the exit code.
    """
    from mlx_align.engine.launch import check_resumable

    ranks.refuse(detach=detach)
    if ranks.assists():
        return ranks.assist()
    run = naming.find_run(runs_dir, name)
    _refuse_other(run, method)
    check_resumable(run)
    ranks.refuse(backend=(moved or {}).get("name", run.config().backend.name))
    if moved:
        old, new = run.config().backend, run.move(moved)
        print(
            f"{run.name}: backend {old.name}:{old.device} is now {new.name}:{new.device} "
            f"(written to {run.path / 'config.toml'})",
            file=sys.stderr,
        )
    return start(run, detach, kind)


def _refuse_other(run: RunDirectory, method: str | None) -> None:
    theirs = run.config().method.name
    if method is not None and theirs != method:
        raise ConfigError(
            f"the run '{run.name}' is {theirs}, not {method}",
            hint=f"`mlx-align {theirs} --resume {run.name}`",
        )
