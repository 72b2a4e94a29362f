"""What a preview said about the data, as the screen uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlx_align_cli.display.text import clean, one_line

SHOWN_ROWS = 50
"""At most so many rows of one finding are listed."""
TITLES = {0: (), 1: ("answer",), 2: ("chosen", "rejected")}
"""Number of answers in a row -> what they are called."""


@dataclass(frozen=True)
class Survey:
    """All rows that can be used, by their lengths, and what is odd or wrong.

    Attributes:
        names: "file.jsonl:12" of each row.
        prompts: tokens of each prompt.
        answers: tokens of each answer of each row.
        scores_prompt: whether the prompt's tokens are learnt from too.
        findings: with the keys code, message and rows.
        faults: with the keys message, where and hint.
    """

    names: list[str]
    prompts: list[int]
    answers: list[list[int]]
    scores_prompt: bool
    findings: list[dict[str, Any]]
    faults: list[dict[str, Any]]

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Survey:
        """From the message of `mlx_align.engine.previewing`."""
        return cls(**{key: value for key, value in message.items() if key != "type"})

    @cached_property
    def index(self) -> dict[str, int]:
        """Name -> number of each row, counted from 0."""
        return {name: number for number, name in enumerate(self.names)}

    @property
    def titles(self) -> tuple[str, ...]:
        """What the answers of a row are called."""
        return TITLES.get(len(self.answers[0]) if self.answers else 0, ())

    @property
    def lengths(self) -> dict[str, list[int]]:
        """Tokens of each part of each row."""
        parts = {title: [row[n] for row in self.answers] for n, title in enumerate(self.titles)}
        return {"prompt": self.prompts, **parts}

    @property
    def whole(self) -> list[int]:
        """Tokens of each row: the prompt and its longest answer."""
        pairs = zip(self.prompts, self.answers, strict=True)
        return [prompt + max(answers, default=0) for prompt, answers in pairs]

    def entries(self) -> list[tuple[str, str, int | None]]:
        """The list of what is odd or wrong: (kind, text, the row it leads to)."""
        found: list[tuple[str, str, int | None]] = []
        for fault in self.faults:
            where = (fault["where"] or "").rsplit("/", 1)[-1]
            found.append(("fault", one_line(f"{where}: {fault['message']}", 300), None))
        for finding in self.findings:
            found.append(("finding", clean(finding["message"]), None))
            rows = [name for name in finding["rows"] if name in self.index]
            found += [("row", clean(name.rsplit("/", 1)[-1]), self.index[name]) for name in rows[:SHOWN_ROWS]]
            if len(rows) > SHOWN_ROWS:
                found.append(("more", f"and {len(rows) - SHOWN_ROWS:,} more", None))
        return found
