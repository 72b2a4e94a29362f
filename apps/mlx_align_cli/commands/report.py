"""`mlx-align report`: a run as one HTML page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mlx_align.paths import typed_new
from mlx_align_cli import naming, options
from mlx_align_cli.opening import open_here

EXAMPLES = options.examples("mlx-align report last --open", "mlx-align report last -o report.html")
NAME = "report.html"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Runs", epilog=EXAMPLES)(report)


def report(
    run: options.Run,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE.html", help="Where to; '-' prints it (default: in the run)."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    runs_dir: options.RunsDir = None,
) -> None:
    """Write a run as one HTML page: curves, samples, measures, configuration and origin.

    The page stands alone: it needs no network and no other file, and nothing in it is a script.
    """
    from mlx_align.report import page, write

    place = None if out is None or str(out) == "-" else typed_new(str(out), "--out")
    directory = naming.find_run(runs_dir, run)
    if str(out) == "-":
        sys.stdout.write(page(directory))
        return
    path = place or directory.path / NAME
    write(directory, path)
    print(naming.short_path(path))
    if open_ and not open_here(path):
        print("there is no browser to open it with here; open the file yourself", file=sys.stderr)
