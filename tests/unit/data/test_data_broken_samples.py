"""Every file of data_samples/broken is refused where its expected.json says it must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_align.data import load_dataset, tokenize_rows, wrap_tokenizer
from mlx_align.errors import DataError
from mlx_align.methods.base import RowKind

BROKEN = Path(__file__).parents[3] / "data_samples" / "broken"
EXPECTED: dict[str, dict[str, Any]] = json.loads((BROKEN / "expected.json").read_text(encoding="utf-8"))
LONG = "too-long.jsonl"


def read(name: str, tokenizer: Any, too_long: Any) -> None:
    kind: RowKind = EXPECTED[name]["rows"]
    data = load_dataset(BROKEN / name, kind, valid_fraction=0.1, seed=0)
    tokenize_rows(data.train + data.valid, wrap_tokenizer(tokenizer), max_length=2048, too_long=too_long)


def test_every_file_is_expected() -> None:
    assert {path.name for path in BROKEN.glob("*.jsonl")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_broken_file_is_refused_at_its_line_and_key(make_tokenizer: Callable[..., Any], name: str) -> None:
    line, key = EXPECTED[name]["line"], EXPECTED[name]["key"]
    with pytest.raises(DataError) as caught:
        read(name, make_tokenizer("chatml"), too_long="error")
    where = str(BROKEN / name) + (f":{line}" if line else "") + (f", key '{key}'" if key else "")
    assert caught.value.where == where


def test_a_long_row_is_an_error_only_where_that_is_asked_for(make_tokenizer: Callable[..., Any]) -> None:
    read(LONG, make_tokenizer("chatml"), too_long="drop")
