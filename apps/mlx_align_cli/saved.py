"""What a run's checkpoints say of themselves, read from their small JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_align.runs import RunDirectory


def best_checkpoint(run: RunDirectory) -> Path | None:
    """The best checkpoint so far, as the newest one remembers it."""
    latest = run.checkpoints().latest()
    name = _facts(latest).get("best_checkpoint") if latest else None
    return latest.with_name(str(name)) if latest and name else None


def metrics_of(checkpoint: Path) -> dict[str, float | None]:
    """The held-out metrics that were the newest when a checkpoint was written; empty if it does not say."""
    try:
        values = {key: float(text) for key, text in _facts(checkpoint).get("last_metrics", {}).items()}
    except (AttributeError, TypeError, ValueError):
        return {}
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def _facts(checkpoint: Path) -> dict[str, Any]:
    try:
        facts = json.loads((checkpoint / "trainer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
