"""`mlx-align verify`: is an export still the model that was trained?"""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_align.errors import AlignError
from mlx_align_cli import options
from mlx_align_cli.display.text import clean

if TYPE_CHECKING:
    from mlx_align.engine.exporting import Verification

EXAMPLES = options.examples(
    "mlx-align verify model-f16.gguf",
    "mlx-align verify my-adapter --base Qwen/Qwen3-0.6B",
)
PATH = typer.Argument(
    metavar="PATH", help="The folder or file that `mlx-align export` made.", show_default=False
)
Base = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="The base model of an adapter, where it cannot be found by itself."),
]
BaseGguf = Annotated[
    str | None,
    typer.Option("--base-gguf", metavar="FILE", help="A GGUF of the base, for an adapter in GGUF."),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu", help="Where MLX computes.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Runs", epilog=EXAMPLES)(verify)


def verify(
    path: Annotated[Path, PATH],
    base: Base = None,
    base_gguf: BaseGguf = None,
    device: Device = "auto",
    json: options.AsJson = False,
) -> None:
    """Load an export with the program that uses it, and compare it with the evidence that lies beside it.

    Neither the run nor, for a merged model, the base is needed. It exits with 1 if the export differs.
    """
    from mlx_align.engine.exporting import Verification, verify_again

    print(clean(f"verifying {path}"), file=sys.stderr)
    try:
        found = verify_again(path, base=base, base_gguf=base_gguf, device=device)
    except AlignError as error:
        if json:
            _line(Verification(None, error.message, error.hint))
        raise
    if json:
        _line(found)
    elif found.verified:
        print(clean(found.line()))
    if not found.verified:
        raise AlignError(f"it could not be verified: {found.reason}", where=str(path), hint=found.hint)
    for warning in found.warnings:
        print(clean(f"warning: {warning}"), file=sys.stderr)


def _line(found: Verification) -> None:
    print(jsonlib.dumps(found.json(), ensure_ascii=False))
