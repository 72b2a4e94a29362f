"""How long rows are, as histograms over one axis, with a line that can be moved."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widget import Widget

BLOCKS = " ▁▂▃▄▅▆▇█"
MARGIN = 1.08
"""The axis goes so far beyond the longest."""
LEAST = 16
"""Shortest axis, in tokens."""


def counts(values: Sequence[int], high: int, columns: int) -> list[int]:
    """How many values lie in each of so many parts of 0 to high; on a short axis some have the same value.

    Args:
        values: ascending, from 0 to high; they are not gone through, however many there are.
        high: where the axis ends.
        columns: of the axis.
    """
    parts = min(high, columns)
    begins = [bisect_left(values, -(-part * high // parts)) for part in range(parts)]
    found = [end - begin for begin, end in pairwise([*begins, len(values)])]
    return [found[column * parts // columns] for column in range(columns)]


def bars(heights: Sequence[int], rows: int) -> list[str]:
    """Counts as so many lines of block characters, the highest line first; only 0 is invisible."""
    top = max([*heights, 1])
    eighths = [0 if not count else max(1, round(8 * rows * count / top)) for count in heights]
    return [
        "".join(BLOCKS[min(8, max(0, one - 8 * row))] for one in eighths) for row in reversed(range(rows))
    ]


class LengthPlot(Widget, can_focus=True):
    """Histograms of the lengths of rows; left and right move the line of the longest that is allowed.

    Attributes:
        limit: where the line is, in tokens.
    """

    DEFAULT_CSS = "LengthPlot { height: 1fr; padding: 0 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1)", "Shorter", id="lengths.shorter"),
        Binding("right", "move(1)", "Longer", id="lengths.longer"),
        Binding("shift+left,H", "move(-10)", "Much shorter", id="lengths.much_shorter", show=False),
        Binding("shift+right,L", "move(10)", "Much longer", id="lengths.much_longer", show=False),
        Binding("end", "all", "Keep all rows", id="lengths.all"),
    ]

    class Moved(Message):
        """The line was moved."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 0
        self._lengths: dict[str, list[int]] = {}  # all ascending: every key draws anew
        self._whole: list[int] = []

    def show(self, lengths: Mapping[str, Sequence[int]], whole: Sequence[int], limit: int) -> None:
        """Replace what is drawn.

        Args:
            lengths: title -> tokens of each row's part.
            whole: tokens of each row, as it counts against the limit.
            limit: the longest that is allowed.
        """
        self._lengths = {title: sorted(values) for title, values in lengths.items()}
        self._whole = sorted(whole)
        self.limit = limit
        self.refresh()

    @property
    def beyond(self) -> int:
        """How many rows are longer than the line allows."""
        return len(self._whole) - bisect_right(self._whole, self.limit)

    @property
    def high(self) -> int:
        """Where the axis ends."""
        return max(LEAST, round((self._whole[-1] if self._whole else 0) * MARGIN))

    def action_move(self, by: int) -> None:
        """Move the line by so many columns; right of the plot it stays when it is to go on."""
        if by > 0 and self.limit >= self.high:
            return
        step = max(1, self.high // max(1, self.content_size.width))
        begin = min(self.limit, self.high)
        place = begin // step + by if by > 0 else -(-begin // step) + by
        self.limit = min(self.high, max(1, place * step))
        self._moved()

    def action_all(self) -> None:
        """Move the line to the longest row."""
        self.limit = self._whole[-1] if self._whole else LEAST
        self._moved()

    def _moved(self) -> None:
        self.refresh()
        self.post_message(self.Moved())

    def render(self) -> Text:
        """The histograms, one below the other, and the axis."""
        width, height = self.content_size
        parts = {**self._lengths, "whole row": self._whole}
        rows = max(1, (height - 1) // len(parts) - 1)
        text = Text(no_wrap=True)
        for title, values in parts.items():
            self._draw(text, title, values, width, rows)
        return text.append(self._axis(width), style=self._colour("quiet"))

    def _draw(self, text: Text, title: str, values: Sequence[int], width: int, rows: int) -> None:
        longest, middle = (values[-1], values[len(values) // 2]) if values else (0, 0)
        text.append(title, style="bold").append(
            f"  median {middle:,}, longest {longest:,} tokens\n", style=self._colour("quiet")
        )
        line = min(width - 1, self.limit * width // self.high) if self.limit <= self.high else width
        for row in bars(counts(values, self.high, width), rows):
            text.append(row[:line], style=self._colour("primary"))
            if line < width:
                text.append("│", style=self._colour("accent"))
                text.append(row[line + 1 :], style=self._colour("error"))
            text.append("\n")

    def _axis(self, width: int) -> str:
        line = [" "] * width
        for part in range(5):
            label = f"{self.high * part // 4:,}"
            at = min(width - len(label), max(0, width * part // 4 - (len(label) // 2 if part else 0)))
            line[at : at + len(label)] = label
        return "".join(line)

    def _colour(self, name: str) -> str:
        return self.app.theme_variables.get(name, "")
