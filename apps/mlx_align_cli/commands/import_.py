"""`mlx-align import`: an adapter made elsewhere becomes the start of a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_align.errors import AlignError, UsageError
from mlx_align.paths import typed, typed_new
from mlx_align_cli import options
from mlx_align_cli.naming import program, short_path

if TYPE_CHECKING:
    from mlx_align.export.adapter import Adapter
    from mlx_align.hub import ModelSource

ADAPTER = typer.Argument(
    metavar="ADAPTER", help="A folder with an adapter in PEFT's format or mlx-lm's.", show_default=False
)
BASE = typer.Option(
    metavar="MODEL",
    help="The model it was trained on; if left out, the one that the adapter names.",
    show_default=False,
)
OUT = typer.Option(
    metavar="DIR", help="The new folder (default: ./, the adapter's name and '-mlx').", show_default=False
)
EXAMPLES = options.examples(
    "mlx-align import peft-adapter --base Qwen/Qwen3-0.6B",
    "mlx-align import peft-adapter --base Qwen/Qwen3-0.6B --out start",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import", rich_help_panel="Runs", epilog=EXAMPLES)(import_)


def import_(
    adapter: Annotated[Path, ADAPTER],
    base: Annotated[str | None, BASE] = None,
    out: Annotated[Path | None, OUT] = None,
) -> None:
    """Convert an adapter made elsewhere into one that a run can start from.

    It is checked against its base. What cannot be carried over exactly is refused.
    """
    from mlx_align.export import importing
    from mlx_align.export.base import Base

    folder = typed(str(adapter))
    target = typed_new(str(out), "--out") if out is not None else Path(f"{folder.resolve().name}-mlx")
    model = _find_base(folder, base)
    made = importing.convert(folder, Base.open(model.folder), target)
    print(_summary(made), file=sys.stderr)
    print(target)
    start = shlex.quote(f"adapter.start={short_path(target)}")
    print(f"next: {program()} orpo {shlex.quote(model.name)} --set {start}", file=sys.stderr)


def _find_base(folder: Path, name: str | None) -> ModelSource:
    """The model that an adapter belongs to.

    Raises:
        UsageError: neither the command line nor the adapter names one that can be had.
        AlignError: it cannot be fetched.
    """
    from mlx_align.export import importing
    from mlx_align.hub import resolve_model

    named = importing.base_name(folder)
    if name is not None:
        return resolve_model(name)
    if not named:
        raise UsageError(
            "the adapter does not say which model it belongs to",
            where=str(folder),
            hint="Say it with --base.",
        )
    try:
        return resolve_model(named)
    except AlignError as error:
        raise type(error)(
            f"the adapter names its base '{named}': {error.message}",
            where=error.where,
            hint="Say with --base where it is.",
        ) from None


def _summary(adapter: Adapter) -> str:
    kind = "DoRA" if adapter.dora else "LoRA"
    rank = adapter.facts["lora_parameters"]["rank"]
    return f"{kind} of rank {rank}, scale {adapter.scale:g}, on {len(adapter.modules)} modules"
