"""What a run's folder holds: what its checkpoints say of themselves, and what cannot be made again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_align_cli.display.text import plural

if TYPE_CHECKING:
    from mlx_align.runs import RunDirectory

PAIRS = "preferences.jsonl"
"""The pairs that a person kept in a chat."""


def metrics_of(checkpoint: Path) -> dict[str, float | None]:
    """The held-out metrics that were the newest when a checkpoint was written; empty if it does not say."""
    from mlx_align.runs.chosen import facts_of  # loads numpy, which `--help` does without

    try:
        values = {key: float(text) for key, text in facts_of(checkpoint).get("last_metrics", {}).items()}
    except (AttributeError, TypeError, ValueError):
        return {}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def irreplaceable(run: RunDirectory) -> str:
    """What a run holds that its training did not make, such as "60 kept pairs and 2 exports"; "" for nothing.

    Raises:
        OSError: it cannot be looked at.
    """
    from mlx_align.preferences import count

    pairs = count(run.path / PAIRS)
    folder = run.path / "exports"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    exports = sum(not name.startswith(".") and not name.endswith(".mlx-align.json") for name in names)
    counted = ((pairs, "kept pair"), (exports, "export"))
    return " and ".join(plural(number, what) for number, what in counted if number)
