"""`mlx-align tui`: the terminal UI, here or in a browser."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from mlx_align import installing
from mlx_align.errors import UsageError
from mlx_align_cli import naming, options

EXAMPLES = options.examples("mlx-align tui", "mlx-align tui --serve --port 8000")
INSTALL = installing.command("tui")
INSTALL_SERVE = installing.command("tui", "serve")
NEEDED = ("textual", "textual_plot")
SERVED = "TEXTUAL_DRIVER"
"""The variable by which textual-serve says that a browser is the screen."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Runs", epilog=EXAMPLES)(tui)


def tui(
    serve: Annotated[bool, typer.Option("--serve", help="Show it in a browser instead.")] = False,
    host: Annotated[
        str | None, typer.Option(help="For --serve: the address to listen on (default: 127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="For --serve: the port; 0 takes any (default: 8000)."),
    ] = None,
    runs_dir: options.RunsDir = None,
) -> None:
    """Open the terminal UI: runs, live curves, data, chat and export, all with the keyboard.

    `mlx-align` alone on a terminal does the same.
    """
    _need(*NEEDED, hint=f"Install it: {INSTALL}")
    if not serve and (host is not None or port is not None):
        raise UsageError("--host and --port would be ignored", hint="They belong to tui --serve.")
    root = naming.runs_root(runs_dir)
    if serve:
        _need("textual_serve", hint=f"Install it: {INSTALL_SERVE}")
        from mlx_align_tui.serve import serve as show_in_browser

        show_in_browser(root, host or "127.0.0.1", 8000 if port is None else port)
        return
    if not (on_a_terminal() or SERVED in os.environ):
        raise UsageError(
            "the terminal UI needs a terminal", hint="`mlx-align runs ls` prints the runs anywhere."
        )
    from mlx_align_tui import run

    raise typer.Exit(run(root))


def _need(*libraries: str, hint: str) -> None:
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        name = missing[0].replace("_", "-")
        raise UsageError(f"the terminal UI needs the library '{name}', which is not installed", hint=hint)


def on_a_terminal() -> bool:
    """Whether a person can see and type here."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def without_arguments() -> list[str]:
    """What `mlx-align` alone means: the terminal UI on a terminal, if it is installed, else the help page."""
    if not on_a_terminal():
        return []
    if all(find_spec(name) is not None for name in NEEDED):
        return ["tui"]
    print(f"The terminal UI would open here once it is installed: {INSTALL}\n", file=sys.stderr)
    return []
