"""Answers while they come: beside each other where the terminal is wide, else one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlx_align.chat import Done
from mlx_align_cli.display.terminal import without_control_echo
from mlx_align_cli.display.text import clean, plural

WIDE = 100
"""Columns from which two answers stand beside each other."""
GAP = 3
"""Columns between them."""


class Stage(Protocol):
    """Where the answers to one question are shown, from left to right, while its block lasts."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def token(self, place: int, text: str) -> None:
        """More of an answer has come."""

    def done(self, place: int, answer: Done) -> None:
        """An answer is whole."""


def stage(console: Console, names: Sequence[str]) -> Stage:
    """Where to show the answers of these."""
    if len(names) == 2 and console.is_terminal and not console.is_dumb_terminal and console.width >= WIDE:
        return Beside(console, names)
    return InTurn(console, names)


def remark(answer: Done) -> str:
    """How an answer ended and what it took."""
    speed = f"{plural(answer.tokens, 'token')} in {answer.seconds:.1f} s"
    if answer.cancelled:
        return f"stopped, {speed}"
    return speed if answer.finished else f"cut off after {speed}"


class InTurn:
    """One answer after the other, each under its name; a single one without it."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self._console, self._names, self._begun = console, names, -1
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:  # what failed in the middle of a line is told on the next
            self._console.out("")

    def token(self, place: int, text: str) -> None:
        """Write it on."""
        self._begin(place)
        self._console.out(clean(text) if self._console.is_terminal else text, end="", highlight=False)

    def done(self, place: int, answer: Done) -> None:
        """End the line; on a terminal, say how it ended."""
        self._begin(place)
        self._console.out("")
        self._open = False
        if self._console.is_terminal:
            self._console.print(Text(f"({remark(answer)})", style="dim"))

    def _begin(self, place: int) -> None:
        if place != self._begun and len(self._names) > 1:
            self._console.print(Text(f"{self._names[place]}: ", style="bold"), end="")
        self._begun, self._open = place, True


class Beside:
    """Two columns that grow: their last lines only if the screen is too low; whole when they are done."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self._console, self._names = console, names
        self._texts, self._remarks = ["", ""], ["", ""]
        self._live = Live(console=console, transient=True, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._screen = ExitStack()
        self._screen.enter_context(without_control_echo())
        self._screen.enter_context(self._live)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.close()
        if any(self._texts):
            self._console.print(self._table(None))

    def token(self, place: int, text: str) -> None:
        """Draw both again."""
        self._texts[place] += text
        self._live.update(self._table(self._console.height - 3), refresh=True)

    def done(self, place: int, answer: Done) -> None:
        """Remember the whole answer and how it ended."""
        self._texts[place], self._remarks[place] = answer.text, remark(answer)

    def _table(self, height: int | None) -> RenderableType:
        width = (self._console.width - GAP) // 2
        table = Table.grid(padding=(0, GAP, 0, 0))
        for _ in self._names:
            table.add_column(width=width)
        table.add_row(*(Text(name, style="bold") for name in self._names))
        table.add_row(*(self._column(text, width, height) for text in self._texts))
        table.add_row(*(Text(f"({text})" if text else "", style="dim") for text in self._remarks))
        return table

    def _column(self, text: str, width: int, height: int | None) -> Text:
        lines = Text(clean(text)).wrap(self._console, width)
        shown = lines if height is None else lines[-max(1, height) :]
        return Text("\n").join(shown)
