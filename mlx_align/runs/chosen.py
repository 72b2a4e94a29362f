"""What a run has come to: which of its adapters is meant, and the model that it belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_align.errors import UsageError
from mlx_align.hub import resolve_model
from mlx_align.runs.directory import RunDirectory


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's trainer.json; empty if it cannot be read."""
    try:
        facts = json.loads((checkpoint / "trainer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def best_checkpoint(run: RunDirectory) -> Path | None:
    """The best checkpoint so far, as the newest one remembers it; it may have been removed."""
    latest = run.checkpoints().latest()
    name = facts_of(latest).get("best_checkpoint") if latest else None
    return latest.with_name(str(name)) if latest and name else None


def made_of(run: RunDirectory) -> Path | None:
    """The checkpoint that a finished run's adapter is a copy of; it may be gone. None: not known."""
    return best_checkpoint(run) or run.checkpoints().latest()


def adapter_of(run: RunDirectory, checkpoint: str | None) -> Path:
    """The adapter that answers, is served and is exported.

    Args:
        run: the run.
        checkpoint: a checkpoint's name, or "best"; None: the finished adapter, else the best checkpoint, else
            (or where the best is the untrained model) the newest.

    Raises:
        UsageError: there is none.
        AlignError: the run's configuration cannot be read.
    """
    saved = run.checkpoints()
    if checkpoint is not None:
        best = best_checkpoint(run) if checkpoint == "best" else None
        checkpoint = best.name if best else checkpoint
        fitting = next((p for p in saved.paths() if p.name == checkpoint), None)
        if fitting is None:
            names = ", ".join(p.name for p in saved.paths()) or "none"
            raise UsageError(
                f"the run has no checkpoint '{checkpoint}'", where=run.name, hint=f"It has: {names}."
            )
        return fitting
    if run.adapter.is_dir():
        return run.adapter
    paths = saved.paths()
    if not paths:
        raise UsageError(
            "the run has saved no adapter yet", where=run.name, hint="Wait for its first checkpoint."
        )
    best = best_checkpoint(run)
    if best is None or best not in paths:
        return paths[-1]
    untrained = facts_of(best).get("step") == 0 and run.config().adapter.start is None
    return paths[-1] if untrained else best


def model_of(run: RunDirectory) -> Path:
    """The base model's folder, fetched again if it is no longer where it was.

    Raises:
        UsageError: it cannot be found.
        AlignError: it cannot be fetched.
    """
    env = run.env()
    folder = Path(str(env.get("model_folder", "")))
    if (folder / "config.json").is_file():
        return folder
    model = run.config().model
    try:
        return resolve_model(model.path, env.get("commit") or model.revision).folder
    except UsageError as error:
        raise UsageError(
            f"the run's model is not where it was: {error.message}",
            where=str(folder),
            hint="Put it back, or a link to where it is now.",
        ) from None
