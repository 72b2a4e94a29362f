"""From a path to rows: which file is learnt from, which is held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_align.data.jsonl import read_jsonl
from mlx_align.data.rows import PromptIdentity, Row, parse_row
from mlx_align.errors import DataError
from mlx_align.methods.base import RowKind

TRAIN = "train.jsonl"
VALID = ("valid.jsonl", "validation.jsonl")


@dataclass(frozen=True)
class Dataset:
    """Rows to learn from and rows to measure with.

    Attributes:
        train: at least one row.
        valid: at least one row, none of them in `train`.
        fingerprint: SHA-256 of the file; of two files, the SHA-256 of their two hexadecimal ones in a row.
        description: where the rows came from and how they were divided, in one sentence.
        leaked: rows of `valid` whose prompt is also in `train`; 0 where we divided the rows ourselves.
    """

    train: tuple[Row, ...]
    valid: tuple[Row, ...]
    fingerprint: str
    description: str
    leaked: int


def load_dataset(path: Path, kind: RowKind, valid_fraction: float, seed: int) -> Dataset:
    """Read a .jsonl file, or a folder with train.jsonl and perhaps valid.jsonl (or validation.jsonl).

    Where there is no validation file, a share of the rows is held out: `valid_fraction` of them, at
    least one, the same ones whenever the seed is the same. Rows with the same prompt stay on one side.
    A test.jsonl is never read.

    Raises:
        DataError: there is nothing at the path, a file is missing, empty or ambiguous, a row cannot be
            used, or all rows have the same prompt so that none can be held out.
    """
    files = data_files(path)
    rows = [_read_rows(file, kind) for file in files]
    fingerprint = _fingerprint(files)
    if len(files) == 2:
        train, valid = rows
        known = {row.prompt_identity for row in train}
        leaked = sum(row.prompt_identity in known for row in valid)
        description = f"{files[0]} ({len(train)} rows), held out: {files[1]} ({len(valid)} rows)"
        return Dataset(train, valid, fingerprint, description, leaked)
    held_out = _held_out_prompts(files[0], rows[0], valid_fraction, seed)
    train = tuple(row for row in rows[0] if row.prompt_identity not in held_out)
    valid = tuple(row for row in rows[0] if row.prompt_identity in held_out)
    description = f"{files[0]} ({len(train)} rows), held out from it: {len(valid)} rows"
    return Dataset(train, valid, fingerprint, description, leaked=0)


def data_files(path: Path) -> list[Path]:
    """The file to train on, and the validation file where there is one.

    Raises:
        DataError: there is nothing at the path, the folder cannot be read, or a file is missing or ambiguous.
    """
    try:
        if not path.exists():
            raise DataError.at(path, None, None, "there is no such file or folder")
        if not path.is_dir():
            return [path]
        present = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise DataError.at(path, None, None, f"it cannot be read: {error.strerror}") from None
    if TRAIN not in present:
        found = ", ".join(present) or "nothing"
        message = f"the folder has no {TRAIN}; it holds {found}"
        raise DataError.at(path, None, None, message, f"Looked for {TRAIN} and {' or '.join(VALID)}.")
    valid = [name for name in VALID if name in present]
    if len(valid) > 1:
        message = f"the folder has both {' and '.join(VALID)}"
        raise DataError.at(path, None, None, message, "Keep one of them.")
    return [path / name for name in (TRAIN, *valid)]


def _read_rows(file: Path, kind: RowKind) -> tuple[Row, ...]:
    rows = tuple(parse_row(kind, file, line, row) for line, row in read_jsonl(file))
    if not rows:
        raise DataError.at(file, None, None, "the file has no rows")
    return rows


def _fingerprint(files: Sequence[Path]) -> str:
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    # Hashing hashes, not the joined bytes: moving a row from one file to the other must change the result.
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _held_out_prompts(file: Path, rows: Sequence[Row], fraction: float, seed: int) -> set[PromptIdentity]:
    """The prompts whose rows are not trained on: at least one, and never all."""
    sizes = Counter(row.prompt_identity for row in rows)
    if len(sizes) < 2:
        message = "all rows have the same prompt, so none can be held out for evaluation"
        hint = f"Add rows, or make a folder with {TRAIN} and {VALID[0]}."
        raise DataError.at(file, None, None, message, hint)
    # Ordered by a hash of seed and prompt: the choice survives another order of rows and another numpy.
    order = sorted(sizes, key=lambda prompt: hashlib.sha256(f"{seed}{prompt!r}".encode()).digest())
    room = min(max(1, round(len(rows) * fraction)), len(rows) - 1)
    held_out: set[PromptIdentity] = set()
    for prompt in order:
        if sizes[prompt] <= room:
            held_out.add(prompt)
            room -= sizes[prompt]
    # Where every prompt has more rows than the share, the smallest leaves the most to train on.
    return held_out or {min(order, key=lambda prompt: sizes[prompt])}
