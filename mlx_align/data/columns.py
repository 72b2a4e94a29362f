"""Files whose columns have other names: what there is, what is likely meant, and a copy with our names."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlx_align.data.jsonl import read_jsonl
from mlx_align.data.rows import QUESTIONS
from mlx_align.errors import DataError
from mlx_align.methods.base import RowKind
from mlx_align.runs.atomic import write_text

LOOKED_AT = 100
"""Rows in which columns are looked for."""

WANTED: dict[RowKind, tuple[str, ...]] = {
    "completion": ("prompt", "completion"),
    "pair": ("prompt", "chosen", "rejected"),
    "prompt": ("prompt", "answer"),
}
"""The columns that a kind of row is made of."""
OPTIONAL: dict[RowKind, tuple[str, ...]] = {"completion": (), "pair": ("prompt",), "prompt": ("answer",)}
"""Of those, the ones that a file may lack: whole conversations have their prompt inside."""

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("question", "instruction", "query", "problem", "input", "user", "context"),
    "chosen": ("preferred", "better", "winner", "chosen_response", "response_chosen", "good"),
    "rejected": ("dispreferred", "worse", "loser", "rejected_response", "response_rejected", "bad"),
    "completion": ("response", "output", "answer", "reply", "text", "target"),
    "answer": ("solution", "final_answer", "ground_truth", "target", "label", "expected"),
}
"""What others call our columns, likeliest first."""
MEANINGFUL = {*OTHER_NAMES, "messages", "question", "problem", "solution", "label"}
"""Columns that would still be read as something if they stayed in a copy."""


def columns(path: Path) -> dict[str, str]:
    """Each column of a JSON lines file, in the order of appearance, with its first value as text.

    Raises:
        DataError: the file cannot be read or one of its first lines is not an object.
    """
    found: dict[str, str] = {}
    for _, row in itertools.islice(read_jsonl(path), LOOKED_AT):
        for name, value in row.items():
            found.setdefault(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return found


def kinds(names: Collection[str]) -> tuple[RowKind, ...]:
    """The kinds of row that have these columns, likeliest first; none where they have other names."""
    have = set(names)
    suited: dict[RowKind, bool] = {
        "pair": have >= {"chosen", "rejected"},
        "completion": have >= {"prompt", "completion"} or "messages" in have,
        "prompt": bool(have & {*QUESTIONS}),
    }
    return tuple(kind for kind, suits in suited.items() if suits)


def guess(kind: RowKind, names: Collection[str]) -> dict[str, str]:
    """Our column -> the one that is likely meant, as far as that can be guessed."""
    meant: dict[str, str] = {}
    for wanted in WANTED[kind]:
        for name in (wanted, *OTHER_NAMES[wanted]):
            same = [one for one in names if one.lower() == name]
            if same:
                meant[wanted] = same[0]
                break
    return meant


def missing(kind: RowKind, mapping: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that no other column stands for and that the rows cannot do without."""
    return tuple(name for name in WANTED[kind] if name not in mapping and name not in OPTIONAL[kind])


def copy_path(source: Path) -> Path:
    """Where a mapped copy goes: beside the file, under a name that is not taken; it may be too long."""
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    names = (source.with_name(f"{source.stem}.mapped{number}.jsonl") for number in numbers)
    return next(path for path in names if not os.path.exists(path))


def write_mapped(source: Path, mapping: Mapping[str, str], target: Path) -> int:
    """Write a copy of a file whose columns have our names; the file itself is only read.

    Args:
        source: a JSON lines file.
        mapping: our column -> the file's.
        target: the copy; it must not exist.

    Returns:
        the number of rows.

    Raises:
        DataError: the target exists, or a row lacks one of the columns.
        OSError: the copy cannot be written.
    """
    if target.exists():
        message = "there is a file of this name already"
        raise DataError(message, where=str(target), hint="Choose another name.")
    lines = []
    for number, row in read_jsonl(source):
        lacking = [theirs for theirs in mapping.values() if theirs not in row]
        if lacking:
            have = ", ".join(f"'{name}'" for name in row)
            message = f"the row has no '{lacking[0]}'; it has {have}"
            raise DataError.at(source, number, lacking[0], message, "Remove the row, or map another column.")
        lines.append(json.dumps(_mapped(row, mapping), ensure_ascii=False) + "\n")
    write_text(target, "".join(lines))
    return len(lines)


def _mapped(row: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    others = MEANINGFUL | {*mapping.values()}
    kept = {name: value for name, value in row.items() if name not in others}
    return {**{ours: row[theirs] for ours, theirs in mapping.items()}, **kept}
