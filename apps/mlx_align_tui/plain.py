"""Foreign text on the screen: none of it counts as markup, and none of its characters rules the terminal."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from mlx_align_cli.display.text import clean


def plain(text: str) -> str:
    """Any text as Textual markup that shows it as it is, cleaned for a terminal.

    Textual's own `escape` (and Rich's) leave alone what they take for no tag; Textual reads some of that as
    one. A text that is to be cut is cut before. A backslash at the end gets a space after it: else it would
    take its meaning from the tag that follows.
    """
    shown = clean(text).replace("[", r"\[")
    return f"{shown} " if shown.endswith("\\") else shown


class Harmless(LineFilter):
    """Takes out of each line, as it is drawn, what would command the terminal.

    Most foreign text is cleaned where it is shown; this is for what shows it by itself: an input, a text
    area, a tree of files. Widths stay: what takes cells becomes �, what takes none is left out.
    """

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The line without such characters."""
        if "".join(segment.text for segment in segments).isprintable():
            return segments
        return [Segment("".join(map(_harmless, text)), style, control) for text, style, control in segments]


def _harmless(char: str) -> str:
    if char.isprintable() or (char != "\n" and clean(char) == char):
        return char
    return "�" * cell_len(char)
