"""`mlx-align config init|show|schema`."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from mlx_align import methods
from mlx_align.errors import AlignError, UsageError
from mlx_align.paths import typed_new
from mlx_align.presets import PRESETS
from mlx_align_cli import options, schema
from mlx_align_cli.naming import program

app = typer.Typer(no_args_is_help=True, help="Write, show and explain configuration files.")
METHOD = typer.Option(metavar="|".join(methods.METHODS), help="The training method.")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Where to write it; '-' prints it.")] = Path(
        "run.toml"
    ),
    method: Annotated[str, METHOD] = "orpo",
    preset: options.Preset = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a configuration file with every key, described and at its default."""
    methods.get(method)
    if preset is not None and preset not in PRESETS:
        raise UsageError(
            f"unknown preset '{preset}'", where="--preset", hint=f"Choose one of: {', '.join(PRESETS)}."
        )
    text = schema.commented_toml(method, preset)
    if str(path) == "-":
        print(text, end="")
        return
    path = typed_new(str(path), "PATH")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            "the file exists already", where=str(path), hint="Use --force to overwrite it."
        ) from None
    except OSError as error:
        raise AlignError(f"the file cannot be written: {error.strerror}", where=str(path)) from None
    print(f"wrote {path}; use it with: {program()} {method} -c {path}", file=sys.stderr)


@app.command()
def show(
    method: Annotated[str | None, METHOD] = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    preset: options.Preset = None,
    runs_dir: options.RunsDir = None,
    json: options.AsJson = False,
) -> None:
    """Show every setting as it would be used, and where it comes from."""
    from mlx_align_cli.display.listing import print_settings

    flags = options.merge({"runs.dir": ("--runs-dir", runs_dir)}, set_)
    print_settings(options.resolved(method, flags, config, preset), as_json=json)


@app.command("schema")
def schema_(json: Annotated[bool, typer.Option("--json", help="Print JSON Schema.")] = False) -> None:
    """List every key: what it may be, its default, what it does."""
    from mlx_align_cli.display.listing import print_keys, stdout, value_text

    if json:
        print(jsonlib.dumps(schema.json_schema(), indent=2))
        return
    width = min(stdout().width, 80)
    print_keys(schema.all_keys(), width)
    for name, method in methods.METHODS.items():
        print(f"\n{method.title} ({name}): {method.paper}")
        print_keys(schema.method_keys(name), width)
        for key, value in method.defaults.items():
            print(f"{key}  default with {name}: {value_text(value)}")
