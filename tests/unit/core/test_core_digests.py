"""What a model's weights are known by: read once, and again whenever they could have changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_align import digests
from mlx_align.digests import Digests, files_of_model


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read to the end; files written just now count as old enough to be noted."""
    seen: list[str] = []
    file_digest = hashlib.file_digest

    def watched(file: Any, name: str) -> Any:
        seen.append(Path(file.name).name)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", watched)
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    return seen


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model-a.safetensors", "model-b.safetensors", "config.json", "tokenizer.json"):
        (folder / name).write_text(f"content of {name}")
    return folder


def notes(tmp_path: Path) -> Digests:
    def trouble(error: OSError) -> None:
        raise error

    return Digests(tmp_path / "notes", trouble)


def test_each_file_is_read_once(tmp_path: Path, model: Path, reads: list[str]) -> None:
    first = notes(tmp_path).folder(model, files_of_model)
    assert reads == ["config.json", "model-a.safetensors", "model-b.safetensors"]
    assert notes(tmp_path).folder(model, files_of_model) == first
    assert len(reads) == 3


def test_a_copy_is_known_by_the_same_digest(tmp_path: Path, model: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    assert notes(tmp_path).folder(model, files_of_model) == notes(tmp_path).folder(
        tmp_path / "copy", files_of_model
    )


@pytest.mark.parametrize("name", ["model-a.safetensors", "config.json"])
def test_a_changed_file_changes_it(tmp_path: Path, model: Path, reads: list[str], name: str) -> None:
    """Also one of the same size whose time was set back."""
    first = notes(tmp_path).folder(model, files_of_model)
    path = model / name
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(b"X" + data[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert notes(tmp_path).folder(model, files_of_model) != first
    path.write_bytes(data)
    assert notes(tmp_path).folder(model, files_of_model) == first


def test_two_files_that_change_places(tmp_path: Path, model: Path) -> None:
    first = notes(tmp_path).folder(model, files_of_model)
    (model / "model-a.safetensors").rename(model / "c")
    (model / "model-b.safetensors").rename(model / "model-a.safetensors")
    (model / "c").rename(model / "model-b.safetensors")
    assert notes(tmp_path).folder(model, files_of_model) != first


def test_a_file_under_another_name(tmp_path: Path, model: Path) -> None:
    """A loader chooses files by their names."""
    first = notes(tmp_path).folder(model, files_of_model)
    (model / "model-b.safetensors").rename(model / "model-bb.safetensors")
    assert notes(tmp_path).folder(model, files_of_model) != first


def test_what_the_model_does_not_compute_with_does_not_matter(tmp_path: Path, model: Path) -> None:
    first = notes(tmp_path).folder(model, files_of_model)
    (model / "tokenizer.json").write_text("another")
    (model / "consolidated.safetensors").write_text("the same weights in a layout that no loader reads")
    assert notes(tmp_path).folder(model, files_of_model) == first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "[]",
        lambda text: text[: len(text) // 2],
        lambda text: json.dumps({**json.loads(text), "sha256": "0" * 64}),
        lambda text: json.dumps({**json.loads(text), "check": "0" * 64}),
    ],
)
def test_a_damaged_note_is_not_believed(tmp_path: Path, model: Path, reads: list[str], spoil: Any) -> None:
    first = notes(tmp_path).folder(model, files_of_model)
    for note in (tmp_path / "notes").iterdir():
        note.write_text(spoil(note.read_text()))
    assert notes(tmp_path).folder(model, files_of_model) == first
    assert len(reads) == 6
    assert notes(tmp_path).folder(model, files_of_model) == first
    assert len(reads) == 6, "and it is mended"


def test_a_file_that_has_just_been_written_is_not_noted(
    tmp_path: Path, model: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_NS", 60_000_000_000)
    notes(tmp_path).folder(model, files_of_model)
    assert not (tmp_path / "notes").exists()


def test_where_nothing_can_be_noted(tmp_path: Path, model: Path, reads: list[str]) -> None:
    told: list[OSError] = []
    (tmp_path / "file").write_text("")
    first = Digests(tmp_path / "file" / "notes", told.append).folder(model, files_of_model)
    assert len(told) == 3
    assert first == notes(tmp_path).folder(model, files_of_model)
