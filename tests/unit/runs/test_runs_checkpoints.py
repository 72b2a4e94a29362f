"""Checkpoints: whole or not there, the newest and the best kept, damage reported with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_align.errors import AlignError
from mlx_align.runs.checkpoints import ADAPTER_FILE, Checkpoints, export_adapter

ADAPTER = {"layers.0.lora_a": np.arange(6, dtype=np.float32).reshape(2, 3)}


def write_adapter(folder: Path) -> None:
    save_file(ADAPTER, folder / ADAPTER_FILE)
    (folder / "adapter_config.json").write_text('{"num_layers": 1}')


def save(kept: Checkpoints, step: int, micro: int = 0, **more: Any) -> Path:
    training = {"optimizer.step": np.array(step, np.uint64)}
    options = {"write_adapter": write_adapter, "training": training, "trainer": {"step": step}, **more}
    return kept.save(Checkpoints.name(step, micro), **options)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    training = {
        "optimizer.step": np.array(3, np.uint64),
        "optimizer.m": np.array([np.nan, -0.0, 1e-40], np.float32),
        "gradient.t": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    }
    path = save(Checkpoints(tmp_path, 1), 3, training=training, trainer={"step": 3, "x": None})
    loaded = Checkpoints.load(path)
    assert loaded.path == path
    assert loaded.trainer == {"step": 3, "x": None}
    np.testing.assert_array_equal(loaded.adapter["layers.0.lora_a"], ADAPTER["layers.0.lora_a"])
    for name, value in training.items():
        assert loaded.training[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded.training[name], value)


def test_names_sort_in_the_order_of_training() -> None:
    positions = [(0, 0), (1, 0), (1, 1), (1, 12), (2, 0), (10, 0), (99, 3), (100, 0), (123456, 0)]
    written = [Checkpoints.name(step, micro) for step, micro in positions]
    assert written == sorted(written)
    assert written[3] == "step-000001-m012"


def test_the_newest_are_kept_and_the_best_besides(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, 2)
    for step in range(1, 6):
        save(kept, step, keep_also=["step-000001"])
    assert names(tmp_path) == ["step-000001", "step-000004", "step-000005"]
    assert kept.latest() == tmp_path / "step-000005"
    save(kept, 6, keep_also=["step-000005"])
    assert names(tmp_path) == ["step-000005", "step-000006"]


def test_a_position_that_is_saved_already_is_left_as_it_is(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, 2)
    path = save(kept, 1, trainer={"first": True})
    assert save(kept, 1, trainer={"first": False}) == path
    assert Checkpoints.load(path).trainer == {"first": True}


def test_a_save_that_fails_leaves_the_ones_before_it(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, 1)
    save(kept, 1)

    def full(folder: Path) -> None:
        (folder / ADAPTER_FILE).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save(kept, 2, write_adapter=full)
    assert names(tmp_path) == ["step-000001"]


def test_half_written_folders_are_not_checkpoints_and_are_cleaned_away(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, 1)
    half = tmp_path / ".step-000009-abc"  # from an engine that was killed while it saved
    half.mkdir()
    (half / "trainer.json").write_text("{}")
    (tmp_path / "step-000008").mkdir()  # somebody removed its files
    save(kept, 2)
    assert kept.paths() == [tmp_path / "step-000002"]
    assert not half.exists()


def test_there_may_be_none(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "nowhere", 1)
    assert kept.paths() == []
    assert kept.latest() is None


@pytest.mark.parametrize("file", [ADAPTER_FILE, "training.safetensors", "trainer.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_file_is_reported_with_its_checkpoint(tmp_path: Path, file: str, damage: str) -> None:
    path = save(Checkpoints(tmp_path, 1), 3)
    whole = (path / file).read_bytes()
    (path / file).unlink()
    if damage != "gone":
        (path / file).write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    with pytest.raises(AlignError, match="cannot be read") as caught:
        Checkpoints.load(path)
    assert caught.value.where == str(path)
    assert caught.value.hint is not None
    assert "Remove this folder" in caught.value.hint


def test_an_exported_adapter_has_the_adapter_and_nothing_else(tmp_path: Path) -> None:
    path = save(Checkpoints(tmp_path / "checkpoints", 1), 3)
    target = tmp_path / "adapter"
    for _ in range(2):
        export_adapter(path, target)
        assert names(target) == ["adapter_config.json", ADAPTER_FILE]
    assert (target / ADAPTER_FILE).read_bytes() == (path / ADAPTER_FILE).read_bytes()
    assert json.loads((target / "adapter_config.json").read_text()) == {"num_layers": 1}
    assert names(tmp_path) == ["adapter", "checkpoints"]
