"""Data before it is trained on: every row that can be used, all that cannot, and what the model will read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_align.data.jsonl import read_jsonl
from mlx_align.data.lint import Finding, lint
from mlx_align.data.rows import Row, parse_row
from mlx_align.data.sources import data_files
from mlx_align.data.templates import ChatTokenizer
from mlx_align.data.tokenizing import Example, Tokenized, tokenize_rows
from mlx_align.errors import DataError
from mlx_align.methods.base import RowKind

NO_LIMIT = 2**31
STEP = 200
"""Rows between two words on how far it is."""
MOST_REFUSED = 100
"""Lines of a file that are no JSON object, before it is taken for another kind of file."""

Piece = tuple[str, int]
"""A text and the number of tokens that it is made of: 1, or more where one character needs several."""


@dataclass(frozen=True)
class Survey:
    """What there is in a file or folder.

    Attributes:
        examples: the rows that can be used, as token ids and not cut; training rows first.
        findings: what is odd about the training rows.
        faults: one for each row that cannot be used. A file with MOST_REFUSED lines that are no JSON objects
            is read no further, which its last fault says.
    """

    examples: tuple[Example, ...]
    findings: tuple[Finding, ...]
    faults: tuple[DataError, ...]


def survey(
    path: Path,
    kind: RowKind,
    tokenizer: ChatTokenizer,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Survey:
    """Read every row of a file, or of a folder's training and validation files.

    Args:
        path: a .jsonl file, or a folder with train.jsonl.
        kind: what a row should be.
        tokenizer: from `wrap_tokenizer`.
        progress: called with rows done and rows in all.

    Raises:
        DataError: there is nothing to read at the path.
    """
    faults: list[DataError] = []
    files = [_rows(file, kind, faults) for file in data_files(path)]
    total = sum(map(len, files))
    examples: list[Example] = []
    findings: tuple[Finding, ...] = ()
    for number, rows in enumerate(files):
        done = len(examples)
        here: list[Example] = []
        for index, row in enumerate(rows):
            if index % STEP == 0:
                progress(done + index, total)
            try:
                here += tokenize_rows([row], tokenizer, max_length=NO_LIMIT, too_long="drop").examples
            except DataError as error:
                faults.append(error)
        if number == 0:
            findings = lint(rows, Tokenized(tuple(here), (), ())) if here else ()
        examples += here
    progress(total, total)
    return Survey(tuple(examples), findings, tuple(faults))


def _rows(file: Path, kind: RowKind, faults: list[DataError]) -> list[Row]:
    """The rows that can be used; what is wrong with the others goes to `faults`."""
    rows: list[Row] = []
    refused = 0

    def refuse(error: DataError) -> None:
        nonlocal refused
        refused += 1
        faults.append(error)
        if refused == MOST_REFUSED:
            message = f"{refused} lines are no JSON objects: the rest of the file is not read"
            raise DataError.at(file, None, None, message)

    try:
        for line, row in read_jsonl(file, refuse):
            try:
                rows.append(parse_row(kind, file, line, row))
            except DataError as error:
                faults.append(error)
    except DataError as error:
        faults.append(error)
    return rows


def pieces(tokenizer: ChatTokenizer, ids: Sequence[int]) -> list[Piece]:
    """The text of each token, together the text of all.

    A token's text depends on the one before it (some tokenizers drop a leading blank), and a character may
    be divided among tokens; those become one piece.
    """
    found: list[Piece] = []
    before, begun = 0, 0  # the tokens from `before` on are decoded; those before `begun` are told already
    for end in range(1, len(ids) + 1):
        known = tokenizer.decode(ids[before:begun]) if begun > before else ""
        text = tokenizer.decode(ids[before:end])
        if text.endswith("\ufffd") and end < len(ids):
            continue
        found.append((text[len(known) :], end - begun))
        before, begun = begun, end
    return found
