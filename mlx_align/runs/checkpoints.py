"""Checkpoints: everything a resume needs, in a folder that is there whole or not at all.

checkpoints/step-000200/          after update 200 (step-000200-m003: three micro-batches into the next)
    adapters.safetensors          the adapter, in mlx-lm's format,
    adapter_config.json             so a checkpoint can be given to --adapter-path as it is
    training.safetensors          optimiser slots and the accumulated gradient
    trainer.json                  step, data position (which also seeds dropout), best so far,
                                    the window's partial sums
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mlx_align.errors import AlignError
from mlx_align.runs.atomic import new_folder, replace_folder, write_json

State = dict[str, NDArray[Any]]
ADAPTER_FILE = "adapters.safetensors"


@dataclass(frozen=True)
class Saved:
    """A checkpoint as read back: named arrays and the trainer's own facts."""

    path: Path
    adapter: State
    training: State
    trainer: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's `checkpoints/`.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    @staticmethod
    def name(step: int, micro: int) -> str:
        """The folder name for a position."""
        return f"step-{step:06d}" + (f"-m{micro:03d}" if micro else "")

    def paths(self) -> list[Path]:
        """All whole checkpoints, oldest first."""
        found = [p for p in self._folder.glob("step-*") if (p / "trainer.json").is_file()]
        return sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])

    def save(
        self,
        name: str,
        *,
        write_adapter: Callable[[Path], None],
        training: State,
        trainer: dict[str, Any],
        keep_also: Iterable[str] = (),
    ) -> Path:
        """Write one checkpoint atomically, then remove the old ones.

        Args:
            name: from `name`; if that position is saved already, it is left as it is.
            write_adapter: writes the adapter files into the folder it is given.
            training: arrays from `Policy.training_state`.
            trainer: the trainer's facts, as JSON values.
            keep_also: names that must not be removed (the best).
        """
        path = self._folder / name
        if not path.exists():
            with new_folder(path) as folder:
                write_adapter(folder)
                arrays = {key: np.ascontiguousarray(value) for key, value in training.items()}
                save_file(arrays, folder / "training.safetensors")
                write_json(folder / "trainer.json", trainer)
        self._prune({name, *keep_also})
        return path

    def _prune(self, needed: set[str]) -> None:
        for path in self.paths()[: -self._keep]:
            if path.name not in needed:
                path.rename(path.with_name(f".{path.name}"))  # half removed, it must not look whole
        for leftover in self._folder.glob(".step-*"):  # also of an engine that was killed while it saved
            shutil.rmtree(leftover, ignore_errors=True)

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        return next(iter(self.paths()[-1:]), None)

    @staticmethod
    def load(path: Path) -> Saved:
        """Read a checkpoint back.

        Raises:
            AlignError: a file of it is missing or damaged.
        """
        try:
            return Saved(
                path,
                adapter=load_file(path / ADAPTER_FILE),
                training=load_file(path / "training.safetensors"),
                trainer=json.loads((path / "trainer.json").read_text(encoding="utf-8")),
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise AlignError(
                f"the checkpoint cannot be read: {error}",
                where=str(path),
                hint="Remove this folder to resume from the checkpoint before it.",
            ) from None


def export_adapter(checkpoint: Path, target: Path) -> None:
    """Make `target` a folder with just the checkpoint's adapter, in mlx-lm's format."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".adapter-") as name:
        for file in (ADAPTER_FILE, "adapter_config.json"):
            shutil.copyfile(checkpoint / file, Path(name) / file)
        replace_folder(Path(name), target)
