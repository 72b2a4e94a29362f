"""Rows of numbers by key, kept in files that prove themselves when they are read.

A shard is a safetensors file whose name is the SHA-256 of its bytes. So a flipped bit or a missing end is
noticed, two processes never write different content under one name, and nothing is ever changed in place.

    keys      (R, 32) uint8     one key a row
    branches  (R,) int64        arrays of each row
    lengths   (sum(branches),)  numbers of each array, int64
    values    (sum(lengths),)   all arrays end to end, float32
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mlx_align.runs.atomic import write_bytes

SUFFIX = ".safetensors"
KEY_BYTES = 32

Row = list[NDArray[np.float32]]
"""The arrays of one row, each one-dimensional."""
Rows = dict[bytes, Row]


class Shards:
    """The shards in one folder.

    Args:
        folder: where they are; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, wanted: Container[bytes]) -> tuple[Rows, int]:
        """The rows whose keys are wanted, and how many shards were damaged; those are removed."""
        rows: Rows = {}
        damaged = 0
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                for key, row in _rows(_checked(path), wanted):
                    rows.setdefault(key, row)
            except FileNotFoundError:  # another process has made room
                continue
            except (OSError, SafetensorError, ValueError, KeyError):
                damaged += 1
                with suppress(OSError):  # where it cannot be removed, it is at least not used
                    path.unlink()
        return rows, damaged

    def write(self, rows: Mapping[bytes, Row]) -> None:
        """Add one shard.

        Args:
            rows: at least one; keys of KEY_BYTES bytes.

        Raises:
            OSError: it cannot be written.
        """
        arrays = [array for row in rows.values() for array in row]
        data = save(
            {
                "keys": np.frombuffer(b"".join(rows), np.uint8).reshape(-1, KEY_BYTES),
                "branches": np.array([len(row) for row in rows.values()], np.int64),
                "lengths": np.array([len(array) for array in arrays], np.int64),
                "values": np.concatenate(arrays).astype(np.float32, copy=False),
            }
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self.folder / f"{hashlib.sha256(data).hexdigest()}{SUFFIX}", data)


def _checked(path: Path) -> bytes:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != path.stem:
        raise ValueError("the content is not what the name says")
    return data


def _rows(data: bytes, wanted: Container[bytes]) -> Iterator[tuple[bytes, Row]]:
    """The wanted rows of a shard, copied out of it so that the rest can go."""
    kept = load(data)
    ends = np.cumsum(kept["lengths"])
    array = 0
    for key, count in zip(kept["keys"], kept["branches"].tolist(), strict=True):
        if key.tobytes() in wanted:
            spans = [(ends[n] - kept["lengths"][n], ends[n]) for n in range(array, array + count)]
            yield key.tobytes(), [kept["values"][start:end].copy() for start, end in spans]
        array += count
