"""Runs on disk: directory, atomic writing, checkpoints, event log, lock and requests."""

from mlx_align.runs.checkpoints import Checkpoints, Saved
from mlx_align.runs.control import CHECKPOINT, STOP, Control
from mlx_align.runs.directory import Condition, RunDirectory, create, find, list_runs, run_around
from mlx_align.runs.eventlog import EventReader, EventWriter, fold, next_numbers
from mlx_align.runs.lock import RunLock

__all__ = [
    "CHECKPOINT", "STOP", "Checkpoints", "Condition", "Control", "EventReader", "EventWriter", "RunDirectory",
    "RunLock", "Saved", "create", "find", "fold", "list_runs", "next_numbers", "run_around",
]  # fmt: skip
