"""Requests to a running engine: empty files in the run's `control/` folder."""

from __future__ import annotations

from pathlib import Path

STOP, CHECKPOINT = "stop", "checkpoint"


class Control:
    """Both ends of the requests to one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def request(self, what: str) -> None:
        """Ask the engine to stop (after saving), or to write a checkpoint and go on."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / what).touch()

    def requested(self, what: str) -> bool:
        """Whether such a request waits."""
        return (self.folder / what).exists()

    def clear(self, what: str) -> None:
        """The request has been answered."""
        (self.folder / what).unlink(missing_ok=True)
