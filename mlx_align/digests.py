"""Digests of files: what a model's weights and an adapter are known by, wherever they lie.

Reading ten gigabytes of weights takes seconds, so a file's digest is noted in the cache beside the facts that
change with its content: path, size, times and inode. A note is believed if it is whole and all facts hold.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mlx_align.runs.atomic import write_json
from mlx_align.weights import weight_files

Files = Callable[[Path], Iterable[Path]]
"""Which files of a folder count."""

SETTLED_NS = 2_000_000_000
"""A file younger than this is not noted: on a coarse clock it could change again and keep its times."""


def files_of_model(folder: Path) -> list[Path]:
    """The files that decide what a model computes.

    Raises:
        DataError: the index of its weights cannot be used.
    """
    return [*weight_files(folder), *folder.glob("config.json")]


def files_of_adapter(folder: Path) -> list[Path]:
    """The files that decide what an adapter in mlx-lm's format computes."""
    return [file for name in ("adapters.safetensors", "adapter_config.json") for file in folder.glob(name)]


class Digests:
    """SHA-256 digests of files and folders, each file read once until it changes.

    Args:
        notes: the folder of the notes; it need not exist.
        trouble: called with what went wrong when a note cannot be written; the digest is right all the same.
    """

    def __init__(self, notes: Path, trouble: Callable[[OSError], None]) -> None:
        self._notes, self._trouble = notes, trouble

    def folder(self, path: Path, files: Files) -> str:
        """A digest of the names and contents of the files in a folder that count.

        Raises:
            OSError: one of them cannot be read.
            DataError: as `files` raises it.
        """
        return _digest([[file.name, self.file(file)] for file in sorted(set(files(path)))])

    def file(self, path: Path) -> str:
        """A digest of a file's content.

        Raises:
            OSError: it cannot be read.
        """
        facts = _facts(path)
        note = self._notes / f"{_digest(facts['path'])}.json"
        known = _noted(note, facts)
        if known is not None:
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _facts(path) == facts and time.time_ns() - facts["changed_ns"] > SETTLED_NS:
            self._note(note, facts, digest)
        return digest

    def _note(self, note: Path, facts: dict[str, Any], digest: str) -> None:
        try:
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, {**facts, "sha256": digest, "check": _digest([facts, digest])})
        except OSError as error:
            self._trouble(error)


def _facts(path: Path) -> dict[str, Any]:
    """What changes with a file's content; `changed_ns` cannot be set back, as a time of modification can."""
    stat = path.stat()
    return {
        "path": str(path.resolve()),
        "size": stat.st_size,
        "inode": stat.st_ino,
        "modified_ns": stat.st_mtime_ns,
        "changed_ns": stat.st_ctime_ns,
    }


def _noted(note: Path, facts: dict[str, Any]) -> str | None:
    """The digest that a note has for these facts; None if there is no such note, or it is damaged."""
    try:
        read = json.loads(note.read_bytes())
        digest = read["sha256"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    fits = read == {**facts, "sha256": digest, "check": _digest([facts, digest])}
    return str(digest) if fits else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
