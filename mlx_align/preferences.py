"""Preference pairs that a person makes: appended to a file that orpo, dpo and simpo read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_align.data import parse_row
from mlx_align.errors import AlignError, DataError


def keep(path: Path, prompt: Sequence[Mapping[str, str]], chosen: str, rejected: str) -> int:
    """Append one pair; the file and its folder are made if they are not there.

    Args:
        path: a .jsonl file.
        prompt: the conversation that both answer: messages with `role` and `content`.
        chosen: the better answer.
        rejected: the other.

    Returns:
        the number of its line, counted from 1.

    Raises:
        DataError: nothing could be learnt from the pair: an answer is empty, or both are the same.
        AlignError: the file cannot be written.
    """
    row = {
        "prompt": [dict(message) for message in prompt],
        "chosen": _said(chosen),
        "rejected": _said(rejected),
    }
    if chosen == rejected:
        raise DataError("the two answers are the same, so there is no preference to learn")
    try:
        number = count(path) + 1
        _check(row, path, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, json.dumps(row, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise AlignError(f"the pair cannot be kept: {error.strerror or error}", where=str(path)) from None
    return number


def _check(row: Mapping[str, Any], path: Path, number: int) -> None:
    """See that training would take the row.

    Raises:
        DataError: it would not; without a place, as the row is not in the file.
    """
    try:
        parse_row("pair", path, number, row)
    except DataError as error:
        raise DataError(f"the pair is not kept: {error.message}", hint=error.hint) from None


def _said(answer: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": answer}]


def count(path: Path) -> int:
    """How many pairs, one a line, a file has; none if it is not there.

    Raises:
        OSError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0
    return data.count(b"\n") + (not data.endswith(b"\n") if data else 0)


def _append(path: Path, line: bytes) -> None:
    """Add a whole line at the end, after ending one that somebody left open; on the disk when it returns."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "rb+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        try:
            if file.write(line) < len(line):
                raise OSError("the disk is full")
            os.fsync(descriptor)
        except OSError:
            file.truncate(size)
            raise
