"""A model on this disk: the embedded one, or a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_align import embedded
from mlx_align.errors import UsageError
from mlx_align.hub import ModelSource, resolve_model
from mlx_align.weights import INDEX


def model(folder: Path, config: str = '{"model_type": "llama"}') -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def refusal(name: str | Path, revision: str | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve_model(str(name), revision)
    return caught.value


def test_the_embedded_one() -> None:
    assert resolve_model("tiny-chat") == ModelSource(embedded.model_folder(), "tiny-chat", None)


def test_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "mine")
    assert resolve_model(str(folder)) == ModelSource(folder, str(folder), None)
    assert resolve_model("mine").folder.samefile(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/mine").folder == folder


def test_a_folder_called_like_the_embedded_one_wins(tmp_path: Path) -> None:
    model(tmp_path / "tiny-chat")
    assert resolve_model("tiny-chat").folder == Path("tiny-chat")


@pytest.mark.parametrize(
    "name", ["mistral", "./models/none", "/models/none", "a/b/c", "~nobody-here/x/y", "x" * 300]
)
def test_one_that_is_not_there(name: str) -> None:
    error = refusal(name)
    assert f"there is no model '{name}'" in error.message
    assert error.hint is not None
    assert "hub id" in error.hint


def test_a_folder_without_weights_or_config(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "needs config.json and model*.safetensors" in refusal(empty).message
    (empty / "config.json").write_text("{}")
    (empty / "pytorch_model.bin").write_bytes(b"a pickle")
    (empty / "consolidated.safetensors").write_bytes(b"in a layout that nothing here reads")
    error = refusal(empty)
    assert "needs config.json and model*.safetensors" in error.message
    assert error.where == str(empty)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "there is no model" in refusal(tmp_path / "model.gguf").message


@pytest.mark.parametrize("text", ["{", "", "[1, 2", '"a', "[]", "3"])
def test_a_config_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    folder = model(tmp_path / "mine", text)
    error = refusal(folder)
    assert error.where == str(folder / "config.json")


def test_a_model_that_brings_code(tmp_path: Path) -> None:
    folder = model(tmp_path / "mine", json.dumps({"model_type": "llama", "model_file": "mine.py"}))
    error = refusal(folder)
    assert "its own Python code" in error.message
    assert error.where == f"{folder / 'config.json'}, key 'model_file'"


def test_a_revision_is_for_the_hub(tmp_path: Path) -> None:
    for name in ("tiny-chat", str(model(tmp_path / "mine"))):
        error = refusal(name, "main")
        assert "a revision belongs to a hub model" in error.message
        assert error.where == "model.revision = main"


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def in_parts(folder: Path, there: list[str], indexed: bool) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in there:
        (folder / name).write_bytes(b"weights")
    if indexed:
        (folder / INDEX).write_text(json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}))
    return folder


@pytest.mark.parametrize("indexed", [True, False], ids=["an index", "their names"])
def test_weights_that_are_not_whole(tmp_path: Path, indexed: bool) -> None:
    folder = in_parts(tmp_path / "mine", SHARDS[:1], indexed)
    error = refusal(folder)
    assert f"'{SHARDS[1]}', which belongs to its weights, is not there" in error.message
    assert error.where == str(folder)
    (folder / SHARDS[1]).write_bytes(b"weights")
    assert resolve_model(str(folder)).folder == folder


def test_an_index_alone_is_no_model(tmp_path: Path) -> None:
    assert f"'{SHARDS[0]}'" in refusal(in_parts(tmp_path / "mine", [], True)).message


@pytest.mark.parametrize("old", ["model.safetensors", "model-00001-of-00003.safetensors"])
def test_weights_of_an_older_model_beside_the_new_ones(tmp_path: Path, old: str) -> None:
    folder = in_parts(tmp_path / "mine", [*SHARDS, old], True)
    error = refusal(folder)
    assert f"'{old}' does not belong to the model's weights" in error.message
    assert error.where == str(folder / old)
    assert "Remove it" in str(error.hint)
    (folder / old).unlink()
    (folder / "consolidated.safetensors").write_bytes(b"once more, and nothing reads it")
    assert resolve_model(str(folder)).folder == folder
