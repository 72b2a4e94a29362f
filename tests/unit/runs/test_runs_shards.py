"""Shards: rows come back bit for bit, or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from mlx_align.runs.shards import Rows, Shards


def made(seed: int, *counts: tuple[int, ...]) -> Rows:
    """A row for each tuple, with arrays of so many numbers."""
    rng = np.random.default_rng(seed)
    return {rng.bytes(32): [rng.normal(size=n).astype(np.float32) for n in lengths] for lengths in counts}


def assert_equal(rows: Rows, others: Rows) -> None:
    assert rows.keys() == others.keys()
    for key, row in rows.items():
        assert [array.tobytes() for array in row] == [array.tobytes() for array in others[key]]
        assert [array.dtype for array in row] == [np.dtype(np.float32)] * len(row)


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "new" / "folder")
    first, second = made(0, (3, 5), (1,), ()), made(1, (0, 2), (4, 4))
    next(iter(first.values()))[0][0] = -np.inf
    shards.write(first)
    shards.write(second)
    every = {**first, **second}
    rows, damaged = shards.read(set(every))
    assert_equal(rows, every)
    assert damaged == 0
    for key in every:
        assert_equal(shards.read({key})[0], {key: every[key]})


def test_nothing_is_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert Shards(tmp_path / "none").read({b"x" * 32}) == ({}, 0)


def test_every_byte_counts(tmp_path: Path) -> None:
    """A flipped bit anywhere, also in the header, costs the shard it is in and no other."""
    rows, others = made(0, (2, 1), (3,)), made(1, (1, 1))
    data = b""
    for place in range(0, 400, 7):
        shards = Shards(tmp_path / str(place))
        shards.write(rows)
        path = only(shards.folder)
        data = path.read_bytes()
        if place >= len(data):
            break
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        shards.write(others)
        back, damaged = shards.read({*rows, *others})
        assert damaged == 1
        assert_equal(back, others)
        assert not path.exists(), "it is not found damaged a second time"
    assert len(data) > 200


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_shard_without_its_end(tmp_path: Path, keep: int) -> None:
    shards, rows = Shards(tmp_path), made(0, (20, 20))
    shards.write(rows)
    path = only(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    assert shards.read(set(rows)) == ({}, 1)
    shards.write(rows)
    assert_equal(shards.read(set(rows))[0], rows)


def test_something_else_under_its_own_name(tmp_path: Path) -> None:
    """As from a version that keeps other things."""
    data = save({"other": np.zeros(3)})
    (tmp_path / f"{hashlib.sha256(data).hexdigest()}.safetensors").write_bytes(data)
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / ".half-written").write_bytes(b"x")
    assert Shards(tmp_path).read({b"x" * 32}) == ({}, 2)


def test_a_shard_that_vanishes_is_not_damaged(tmp_path: Path) -> None:
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    assert Shards(tmp_path).read({b"x" * 32}) == ({}, 0)
