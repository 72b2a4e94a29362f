"""Asking for the name of a file to write."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static


class AskNameScreen(ModalScreen[str | None]):
    """Answers with what was typed, None for nothing.

    Args:
        title: what is asked.
        about: what happens with it.
        name: what to begin with.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Close", id="ask.close")]

    def __init__(self, title: str, about: str, name: str) -> None:
        super().__init__()
        self._title, self._about, self._begin = title, about, name

    def compose(self) -> ComposeResult:
        """The question."""
        with Vertical(classes="dialog") as frame:
            frame.border_title = self._title
            frame.border_subtitle = "enter saves · esc closes"
            yield Static(self._about, classes="quiet", markup=False)
            yield Input(self._begin, select_on_focus=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take it."""
        self.dismiss(event.value.strip() or None)
