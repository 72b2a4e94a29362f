"""Data before it is trained on: rows that can be used, rows that cannot, and the text of each token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_align.data import wrap_tokenizer
from mlx_align.data.preview import MOST_REFUSED, pieces, survey
from mlx_align.errors import DataError

GOOD = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}


def test_rows_that_cannot_be_used_are_listed_and_the_others_kept(
    write_jsonl: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    path = write_jsonl(
        [
            GOOD,
            {"prompt": "Why?", "chosen": "Same.", "rejected": "Same."},
            {"prompt": "How?", "chosen": "So.<|im_end|>", "rejected": "No."},
            GOOD,
            {"question": "Why?"},
        ]
    )
    told: list[tuple[int, int]] = []
    found = survey(path, "pair", wrap_tokenizer(make_tokenizer("chatml")), lambda *at: told.append(at))
    assert [example.name for example in found.examples] == [f"{path}:1", f"{path}:4"]
    assert {(fault.where or "").split(",")[0] for fault in found.faults} == {f"{path}:{n}" for n in (2, 3, 5)}
    (finding,) = (one for one in found.findings if one.code == "duplicate-rows")
    assert finding.rows == (f"{path}:4",)
    assert told[-1] == (3, 3), "two rows are no pairs at all"


def test_a_line_that_is_not_json_is_told_and_the_others_are_kept(
    write_jsonl: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    path = write_jsonl([GOOD])
    path.write_text(path.read_text() + "{oops\n" + path.read_text())
    found = survey(path, "pair", wrap_tokenizer(make_tokenizer("chatml")))
    assert [example.name for example in found.examples] == [f"{path}:1", f"{path}:3"]
    assert [fault.where for fault in found.faults] == [f"{path}:2"]


def test_a_file_of_another_kind_is_not_read_to_its_end(
    write_jsonl: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    path = write_jsonl([GOOD])
    path.write_text(path.read_text() + "{oops\n" * MOST_REFUSED + path.read_text())
    found = survey(path, "pair", wrap_tokenizer(make_tokenizer("chatml")))
    assert len(found.examples) == 1
    assert len(found.faults) == MOST_REFUSED + 1
    assert "the rest of the file is not read" in found.faults[-1].message


def test_both_files_of_a_folder_are_read_and_only_training_rows_linted(
    tmp_path: Path, write_jsonl: Callable[..., Path], make_tokenizer: Callable[..., Any]
) -> None:
    write_jsonl([GOOD], "train.jsonl")
    write_jsonl([GOOD, GOOD], "valid.jsonl")
    found = survey(tmp_path, "pair", wrap_tokenizer(make_tokenizer("chatml")))
    assert [example.name.rsplit("/", 1)[-1] for example in found.examples] == [
        "train.jsonl:1",
        "valid.jsonl:1",
        "valid.jsonl:2",
    ]
    assert "duplicate-rows" not in {finding.code for finding in found.findings}


def test_nothing_to_read_is_an_error(tmp_path: Path, make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="no such file"):
        survey(tmp_path / "none.jsonl", "pair", wrap_tokenizer(make_tokenizer("chatml")))


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma"])
@pytest.mark.parametrize("text", ["plain words", "naïve 🙂 日本語", "line\nbreak  two blanks", ""])
def test_the_pieces_are_the_text_and_count_every_token(
    make_tokenizer: Callable[..., Any], family: str, text: str
) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer(family))
    ids = tokenizer.encode(f"{text}<|im_end|>")
    found = pieces(tokenizer, ids)
    assert "".join(piece for piece, _ in found) == tokenizer.decode(ids)
    assert sum(count for _, count in found) == len(ids)
    assert not any("\ufffd" in piece for piece, _ in found)


def test_a_character_of_several_tokens_is_one_piece(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = wrap_tokenizer(make_tokenizer("chatml"))
    ids = tokenizer.encode("a🙂b")
    assert len(ids) > 3, "the tokenizer of these tests works on bytes"
    assert pieces(tokenizer, ids) == [("a", 1), ("🙂", len(ids) - 2), ("b", 1)]
