"""Strict JSON lines: what passes, and every trap with its line and key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlx_align.data import read_jsonl
from mlx_align.errors import DataError

GOOD = b'{"a": 1}\n'


def read(path: Path, content: bytes) -> list[tuple[int, dict[str, object]]]:
    path.write_bytes(content)
    return list(read_jsonl(path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


def test_blank_lines_are_skipped_and_still_counted(file: Path) -> None:
    assert read(file, b'{"a": 1}\n\n   \r\n{"a": 2}') == [(1, {"a": 1}), (4, {"a": 2})]


def test_a_utf8_byte_order_mark_and_windows_line_ends_are_accepted(file: Path) -> None:
    assert read(file, b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n') == [(1, {"a": 1}), (2, {"a": 2})]


def test_lines_are_split_at_newlines_only(file: Path) -> None:
    text = "one\u2028two\u0085three\x1cfour"
    escaped = text.replace("\x1c", "\\u001c")
    assert read(file, f'{{"a": "{escaped}"}}\n'.encode()) == [(1, {"a": text})]


def test_a_surrogate_pair_is_one_character(file: Path) -> None:
    assert read(file, b'{"a": "\\ud83d\\ude00"}\n') == [(1, {"a": "😀"})]


@pytest.mark.parametrize(
    ("line", "key", "about"),
    [
        (b'{"a": "\xff"}\n', None, "byte 8 of the line is not UTF-8"),
        (b'{"a": "\xc3', None, "cut off"),
        (b'{"a" 1}\n', None, "not valid JSON at column 6"),
        (b"{'a': 1}\n", None, "not valid JSON at column 2"),
        (b'{"a": 1} {"a": 2}\n', None, "not valid JSON at column 10: Extra data"),
        (b'{"a": "tex', None, "cut off"),
        (b'{"a": 1,', None, "cut off"),
        (b"[1, 2]\n", None, "a list, not an object"),
        (b"null\n", None, "null, not an object"),
        (b"true\n", None, "true, not an object"),
        (b'"text"\n', None, "text, not an object"),
        (b"3.5\n", None, "a number, not an object"),
        (b'{"a": 1, "b": 2, "a": 3}\n', "a", "twice"),
        (b'{"a": [{"role": "x", "role": "y"}]}\n', "role", "twice"),
        (b'{"a": 1, "b": NaN}\n', "b", "NaN"),
        (b'{"a": [1, -Infinity]}\n', "a", "-Infinity"),
        (b'{"a": "x", "b": {"c": ' + b"9" * 5000 + b"}}\n", "b", "an integer of 5,000 digits"),
        (b'{"a": "x", "b": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "b", "nested too deeply"),
        (b'{"a": "x", "b": ["\\ud800"]}\n', "b", "surrogate"),
        (b'{"\\udfff": 1}\n', "\\udfff", "surrogate"),
        (b'\xef\xbb\xbf{"a": 1}\n', None, "not valid JSON at column 1"),
    ],
)
def test_a_broken_line_is_refused_with_line_and_key(
    file: Path, line: bytes, key: str | None, about: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(file, GOOD + b"\n" + line)
    assert caught.value.where == f"{file}:3" + (f", key '{key}'" if key else "")
    assert about in str(caught.value)


def test_rows_before_a_broken_one_are_read(file: Path) -> None:
    file.write_bytes(GOOD + b"{\n")
    rows = read_jsonl(file)
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(DataError):
        next(rows)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_recognised(file: Path, encoding: str) -> None:
    with pytest.raises(DataError, match="UTF-16") as caught:
        read(file, ("\ufeff" + '{"a": 1}\n').encode(encoding))
    assert caught.value.where == str(file)


@pytest.mark.parametrize("content", [b'[{"a": 1}]\n', b'[\n  {"a": 1}\n]\n'])
def test_an_array_gets_a_hint_how_to_convert_it(file: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="jq -c") as caught:
        read(file, content)
    assert caught.value.where == f"{file}:1"


def test_a_missing_file_and_a_folder_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="a folder, not a file"):
        list(read_jsonl(tmp_path))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "rows.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="a pipe or a device") as caught:
        list(read_jsonl(pipe))
    assert caught.value.where == str(pipe)


@pytest.mark.parametrize(("begin", "hint"), [(b'{"a": "', "one whole JSON object"), (b'["', "jq -c")])
def test_a_whole_file_in_one_line_is_refused_before_it_is_decoded(
    file: Path, monkeypatch: pytest.MonkeyPatch, begin: bytes, hint: str
) -> None:
    monkeypatch.setattr("mlx_align.data.jsonl.MAX_LINE", 100)
    most = b'{"a": "' + b"x" * 90 + b'"}\n'
    assert len(most) == 100
    assert len(read(file, most * 3)) == 3
    with pytest.raises(DataError, match="more than 100 B") as caught:
        read(file, begin + b"x" * 100)
    assert caught.value.where == f"{file}:1"
    assert hint in str(caught.value.hint)


def test_an_unreadable_file_is_a_data_error(file: Path) -> None:
    file.symlink_to(file)  # a loop: even root cannot open it
    with pytest.raises(DataError, match="cannot be read"):
        list(read_jsonl(file))
