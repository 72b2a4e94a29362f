"""What a run's checkpoints say of themselves, read from their small JSON files."""

from __future__ import annotations

import math
from pathlib import Path


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
