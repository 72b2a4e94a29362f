"""Where runs are, and what to type to mean one of them, or one of the programs that came with this one."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from mlx_align.errors import AlignError, UsageError
from mlx_align.paths import typed
from mlx_align.settings import gather, resolve

if TYPE_CHECKING:
    from mlx_align.runs import RunDirectory


def runs_root(runs_dir: Path | None = None) -> Path:
    """The folder that holds the runs: flag, else environment, else user config, else default."""
    flags = {"runs.dir": str(runs_dir)} if runs_dir is not None else {}
    return typed(resolve(gather(None, flags=flags)).config.runs.dir)


def find_run(runs_dir: Path | None, name: str, *, exact: bool = False) -> RunDirectory:
    """The run that a person means; `exact`: by its whole name, its path or "last".

    Raises:
        UsageError: there is none of this name, or none at all, or several fit.
    """
    from mlx_align.runs import find, list_runs

    root = runs_root(runs_dir)
    try:
        return find(root, name, exact=exact)
    except UsageError:
        if list_runs(root):
            raise
        hint = "`mlx-align orpo` starts one; --runs-dir looks elsewhere."
        raise UsageError(f"there are no runs in {root}", hint=hint) from None


def run_with(adapter: Path) -> RunDirectory | None:
    """The run whose adapter or checkpoint this folder is, None where it is in none."""
    from mlx_align.runs import run_around

    return run_around(adapter)


def run_word(run: RunDirectory) -> str:
    """What a person types here to mean this run: its name, or its path if it is in an unusual place."""
    try:
        usual = runs_root().resolve()
    except AlignError:
        usual = None
    path = run.path.resolve()
    return shlex.quote(run.name if path.parent == usual else short_path(path))


def short_path(path: Path) -> str:
    """A path as a person would type it here: relative where it lies below this folder."""
    return _from_here(path.resolve())


def _from_here(path: Path) -> str:
    try:
        relative = path.relative_to(Path.cwd())
    except ValueError:
        return str(path)
    return str(relative) if len(relative.parts) != 1 else f"./{relative}"


def program(name: str = "mlx-align") -> str:
    """What a person types here to run a command of this installation, ready for a shell.

    That is its name where the shell finds it, else the path it has beside this program or its Python.
    """
    if which(name):
        return name
    python = Path(os.path.abspath(sys.executable))  # not resolved: the links of a virtual environment matter
    for folder in (Path(os.path.abspath(sys.argv[0])).parent, python.parent):
        if (folder / name).is_file():
            return shlex.quote(_from_here(folder / name))
    return name if name != "mlx-align" else f"{shlex.quote(_from_here(python))} -m mlx_align_cli.main"
