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
COPIES = "pairs"
"""The folder beside the runs with copies of such pairs, made for runs that learn from them."""
MANIFEST = "mlx-align.json"
"""What lies in an export's folder, or beside its file; as in `engine.exporting.manifest`."""
USUAL_ADAPTER = (
    "the finished adapter, else the best checkpoint, "
    "else (or where the best is the untrained model) the newest"
)
"""Which adapter is meant where none is named; what `runs.chosen.adapter_of` does, in words."""


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
        OSError: its pairs cannot be read.
    """
    from mlx_align.preferences import count

    pairs, exports = count(run.path / PAIRS), len(exports_of(run))
    copies = run.path.parent / COPIES
    kept = plural(pairs, "kept pair")
    if any(copies.glob(f"{run.name}-????????.jsonl")):
        kept += f" (copies made for other runs stay in {copies.name}/)"
    held = [kept] if pairs else []
    held += [plural(exports, "export")] if exports else []
    return " and ".join(held)


def exports_of(run: RunDirectory) -> dict[Path, Path]:
    """A run's exports by name, folders and files, each with its manifest; what is being made is none yet."""
    folder = run.path / "exports"
    found = {manifest.parent: manifest for manifest in folder.glob(f"*/{MANIFEST}")}
    for manifest in folder.glob(f"*.{MANIFEST}"):
        found[manifest.with_name(manifest.name.removesuffix(f".{MANIFEST}"))] = manifest
    return {path: found[path] for path in sorted(found) if not path.name.startswith(".")}
