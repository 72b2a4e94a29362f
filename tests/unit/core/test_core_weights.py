"""Which files a model's weights are read from: the same for whoever plans, trains, exports or fetches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_align.errors import DataError
from mlx_align.weights import INDEX, weight_files, weight_names

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
TWICE = ["consolidated.safetensors", "original/model.safetensors"]


def index(*files: str) -> bytes:
    return json.dumps({"weight_map": {f"tensor.{file}": file for file in files}}).encode()


@pytest.mark.parametrize(
    ("names", "listed", "read"),
    [
        ([*SHARDS, *TWICE], index(*SHARDS), SHARDS),
        (["model.safetensors", *TWICE], None, ["model.safetensors"]),
        ([*SHARDS, *TWICE], None, SHARDS),
        (TWICE, None, []),
        (SHARDS[:1], index(*SHARDS), SHARDS),
        (["model.safetensors"], index("model.safetensors"), ["model.safetensors"]),
        (["model.safetensors"], index(*SHARDS), ["model.safetensors"]),
        (["model.safetensors", *SHARDS], index(*SHARDS), SHARDS),
        (SHARDS[1:], None, SHARDS),
        (["model-00000-of-00002.safetensors"], None, ["model-00000-of-00002.safetensors", SHARDS[0]]),
        (
            ["model-00002-of-000002.safetensors"],
            None,
            ["model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"],
        ),
        (["model.extra.safetensors"], None, ["model.extra.safetensors"]),
    ],
    ids=[
        *("an index", "one file", "no index", "none", "a part", "one in an index", "an old index", "both"),
        *("a part without index", "from 0", "a long count", "no part"),
    ],
)
def test_what_is_read(names: list[str], listed: bytes | None, read: list[str]) -> None:
    assert weight_names(names, listed) == read


def test_a_folder_is_read_like_a_list(tmp_path: Path) -> None:
    for name in (*SHARDS, "consolidated.safetensors"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / INDEX).write_bytes(index(*SHARDS))
    assert weight_files(tmp_path) == [tmp_path / name for name in SHARDS]


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', "\xff"])
def test_an_index_that_cannot_be_used(text: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="index cannot be used") as caught:
        weight_files(tmp_path)
    assert caught.value.where == str(tmp_path / INDEX)
