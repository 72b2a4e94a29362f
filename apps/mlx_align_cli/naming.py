"""Where runs are, and what to type to mean one of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_align.errors import AlignError
from mlx_align.settings import gather, resolve

if TYPE_CHECKING:
    from mlx_align.runs import RunDirectory


def runs_root(runs_dir: Path | None = None) -> Path:
    """The folder that holds the runs: flag, else environment, else user config, else default."""
    flags = {"runs.dir": str(runs_dir)} if runs_dir is not None else {}
    return Path(resolve(gather(None, flags=flags)).config.runs.dir).expanduser()


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
    path = path.resolve()
    try:
        relative = path.relative_to(Path.cwd())
    except ValueError:
        return str(path)
    return str(relative) if len(relative.parts) != 1 else f"./{relative}"
