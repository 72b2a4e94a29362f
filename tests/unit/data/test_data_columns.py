"""Files whose columns have other names, and the copy with ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_align.data.columns import columns, copy_path, guess, kinds, missing, write_mapped
from mlx_align.data.jsonl import read_jsonl
from mlx_align.data.rows import parse_row
from mlx_align.errors import DataError

ROWS = [
    {"question": "Why?", "better": "Because.", "worse": "No.", "id": 1, "label": True},
    {"question": "How?", "better": "Like so. é\u2028", "worse": "Never.", "id": 2, "label": False},
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_columns_are_found_with_a_value_each(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [*ROWS, {"late": [1, 2]}])
    assert columns(file) == {
        "question": "Why?", "better": "Because.", "worse": "No.", "id": "1", "label": "true",
        "late": "[1, 2]",
    }  # fmt: skip


def test_what_is_meant_is_guessed() -> None:
    assert guess("pair", ROWS[0]) == {"prompt": "question", "chosen": "better", "rejected": "worse"}
    assert guess("pair", ["Prompt", "chosen", "rejected"])["prompt"] == "Prompt"
    assert guess("completion", ["instruction", "output"]) == {"prompt": "instruction", "completion": "output"}
    assert guess("prompt", ["problem", "target"]) == {"prompt": "problem", "answer": "target"}
    assert guess("pair", ["a", "b"]) == {}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["chosen", "rejected"], ("pair",)),
        (["prompt", "chosen", "rejected"], ("pair", "prompt")),
        (["prompt", "completion"], ("completion", "prompt")),
        (["messages"], ("completion", "prompt")),
        (["question", "answer"], ("prompt",)),
        (["a", "b"], ()),
    ],
)
def test_the_kinds_of_row_are_seen_from_the_columns(names: list[str], expected: tuple[str, ...]) -> None:
    assert kinds(names) == expected


def test_only_what_rows_cannot_do_without_is_missing() -> None:
    assert missing("pair", {}) == ("chosen", "rejected")
    assert missing("completion", {"prompt": "a"}) == ("completion",)
    assert missing("prompt", {"prompt": "a"}) == ()


def test_the_copy_has_our_names_and_the_file_stays_as_it_was(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    before = source.read_bytes()
    target = copy_path(source)
    assert target == tmp_path / "rows.mapped.jsonl"
    assert write_mapped(source, guess("pair", ROWS[0]), target) == 2
    assert source.read_bytes() == before
    rows = [parse_row("pair", target, line, row) for line, row in read_jsonl(target)]
    assert [row.answers for row in rows] == [("Because.", "No."), ("Like so. é\u2028", "Never.")]
    kept = [row for _, row in read_jsonl(target)]
    assert kept[0] == {"prompt": "Why?", "chosen": "Because.", "rejected": "No.", "id": 1}
    assert copy_path(source).name == "rows.mapped-2.jsonl", "an earlier copy is not overwritten"


def test_a_name_that_leaves_no_room_for_a_copys_is_told_only_when_it_is_written(tmp_path: Path) -> None:
    source = write(tmp_path / f"{'x' * 249}.jsonl", ROWS)
    target = copy_path(source)
    assert target.name == f"{source.stem}.mapped.jsonl"
    with pytest.raises(OSError, match="File name too long"):
        write_mapped(source, guess("pair", ROWS[0]), target)


def test_what_cannot_be_mapped_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [*ROWS, {"question": "So?"}])
    target = tmp_path / "copy.jsonl"
    with pytest.raises(DataError, match="no 'better'") as caught:
        write_mapped(source, guess("pair", ROWS[0]), target)
    assert caught.value.where == f"{source}:3, key 'better'"
    assert not target.exists()
    target.write_text("mine")
    with pytest.raises(DataError, match="already"):
        write_mapped(source, {"prompt": "question"}, target)
    assert target.read_text() == "mine"
