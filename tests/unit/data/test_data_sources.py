"""Which rows are learnt from, which are held out, and that no prompt is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_align.data import load_dataset
from mlx_align.errors import DataError

WriteJsonl = Callable[..., Path]


def pairs(*prompts: str) -> list[dict[str, Any]]:
    return [{"prompt": p, "chosen": f"good {i}", "rejected": f"bad {i}"} for i, p in enumerate(prompts)]


def test_a_share_of_one_file_is_held_out(write_jsonl: WriteJsonl) -> None:
    path = write_jsonl(pairs(*(f"question {i}" for i in range(40))))
    data = load_dataset(path, "pair", 0.1, seed=0)
    assert (len(data.train), len(data.valid), data.leaked) == (36, 4, 0)
    assert {row.name for row in data.train + data.valid} == {f"{path}:{i}" for i in range(1, 41)}
    assert "36 rows" in data.description


def test_the_same_seed_holds_out_the_same_prompts_whatever_the_order(write_jsonl: WriteJsonl) -> None:
    rows = pairs(*(f"question {i}" for i in range(40)))
    forward, backward = write_jsonl(rows, "a.jsonl"), write_jsonl(rows[::-1], "b.jsonl")

    def held_out(path: Path, seed: int) -> set[object]:
        return {row.prompt_identity for row in load_dataset(path, "pair", 0.1, seed).valid}

    assert held_out(forward, 0) == held_out(backward, 0)
    assert held_out(forward, 0) != held_out(forward, 1)


@pytest.mark.parametrize("seed", range(20))
def test_rows_with_one_prompt_stay_on_one_side(write_jsonl: WriteJsonl, seed: int) -> None:
    path = write_jsonl(pairs(*"aaabbbccdefghij"))
    data = load_dataset(path, "pair", 0.2, seed)
    train, valid = ({row.prompt_identity for row in side} for side in (data.train, data.valid))
    assert not train & valid
    assert len(data.valid) == 3
    assert len(data.train) == 12


@pytest.mark.parametrize(
    ("prompts", "fraction"), [("ab", 0.01), ("ab", 0.99), ("aaaaab", 0.05), ("aabb", 0.05)]
)
def test_each_side_has_at_least_one_row(write_jsonl: WriteJsonl, prompts: str, fraction: float) -> None:
    data = load_dataset(write_jsonl(pairs(*prompts)), "pair", fraction, seed=3)
    assert data.train
    assert 1 <= len(data.valid) <= 2


def test_one_prompt_cannot_be_divided(write_jsonl: WriteJsonl) -> None:
    with pytest.raises(DataError, match="all rows have the same prompt"):
        load_dataset(write_jsonl(pairs("a", "a")), "pair", 0.5, seed=0)


@pytest.mark.parametrize("name", ["valid.jsonl", "validation.jsonl"])
def test_a_folder_with_its_own_validation_file(write_jsonl: WriteJsonl, name: str) -> None:
    folder = write_jsonl(pairs("a", "b", "c"), "train.jsonl").parent
    write_jsonl(pairs("d", "b", "b"), name)
    (folder / "test.jsonl").write_text("never read")
    data = load_dataset(folder, "pair", 0.5, seed=0)
    assert [row.prompt[0]["content"] for row in data.train] == ["a", "b", "c"]
    assert [row.prompt[0]["content"] for row in data.valid] == ["d", "b", "b"]
    assert data.leaked == 2


def test_a_folder_without_a_validation_file_is_divided(write_jsonl: WriteJsonl) -> None:
    folder = write_jsonl(pairs(*"abcd"), "train.jsonl").parent
    data = load_dataset(folder, "pair", 0.25, seed=0)
    assert (len(data.train), len(data.valid)) == (3, 1)


def test_the_fingerprint_covers_the_bytes_and_which_file_they_are_in(write_jsonl: WriteJsonl) -> None:
    single = write_jsonl(pairs(*"abc"), "single.jsonl")
    assert load_dataset(single, "pair", 0.5, 0).fingerprint == hashlib.sha256(single.read_bytes()).hexdigest()
    folder = write_jsonl(pairs(*"abc"), "train.jsonl").parent
    write_jsonl(pairs("d"), "valid.jsonl")
    before = load_dataset(folder, "pair", 0.5, 0).fingerprint
    write_jsonl(pairs(*"ab"), "train.jsonl")  # row c moves over: the joined bytes stay the same
    write_jsonl([pairs(*"abc")[2], *pairs("d")], "valid.jsonl")
    assert load_dataset(folder, "pair", 0.5, 0).fingerprint != before


def test_a_wrong_folder_says_what_was_looked_for_and_what_is_there(write_jsonl: WriteJsonl) -> None:
    folder = write_jsonl(pairs("a"), "dev.jsonl").parent
    with pytest.raises(DataError, match=r"no train\.jsonl; it holds dev\.jsonl") as caught:
        load_dataset(folder, "pair", 0.5, 0)
    assert "valid.jsonl or validation.jsonl" in str(caught.value.hint)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it holds nothing"):
        load_dataset(tmp_path, "pair", 0.5, 0)


def test_two_validation_files_are_ambiguous(write_jsonl: WriteJsonl) -> None:
    for name in ("train.jsonl", "valid.jsonl", "validation.jsonl"):
        path = write_jsonl(pairs("a"), name)
    with pytest.raises(DataError, match=r"both valid\.jsonl and validation\.jsonl"):
        load_dataset(path.parent, "pair", 0.5, 0)


def test_what_the_system_refuses_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="it cannot be read: File name too long"):
        load_dataset(tmp_path / ("x" * 300), "pair", 0.5, 0)

    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read every folder
    with pytest.raises(DataError, match="it cannot be read: Permission denied") as caught:
        load_dataset(tmp_path, "pair", 0.5, 0)
    assert caught.value.where == str(tmp_path)


def test_a_missing_path_and_a_file_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_dataset(tmp_path / "none", "pair", 0.5, 0)
    (tmp_path / "blank.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="no rows"):
        load_dataset(tmp_path / "blank.jsonl", "pair", 0.5, 0)
