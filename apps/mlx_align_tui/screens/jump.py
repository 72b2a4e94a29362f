"""Jump mode: a letter on everything that can be focused; pressing it goes there."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Label, Tab, Tabs

LETTERS = "asdfghjklqwertyuiopzxcvbnm"


class Letter(Label):
    """A letter that lies over a widget."""


class JumpScreen(ModalScreen[str | None]):
    """Lies over a screen; answers with the letter that was pressed, None for no jump.

    Args:
        below: the screen to jump on.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Stay", id="jump.stay")]

    def __init__(self, below: Screen[None]) -> None:
        super().__init__()
        self._targets = targets(below)

    def compose(self) -> ComposeResult:
        """One letter a widget, at its top left corner."""
        for letter, widget in self._targets.items():
            label = Letter(letter)
            label.styles.position = "absolute"
            label.styles.offset = (max(0, widget.region.x), max(0, widget.region.y))
            yield label

    def on_key(self, event: events.Key) -> None:
        """Go to the widget of this letter; any other key ends the mode."""
        event.stop()
        self.dismiss(event.character if event.character in self._targets else None)


def targets(screen: Screen[None]) -> dict[str, Widget]:
    """Letter -> widget, for everything on a screen that can be jumped to and is seen."""
    found: list[Widget] = []
    for widget in screen.focus_chain:
        found.extend(widget.query(Tab) if isinstance(widget, Tabs) else [widget])
    seen = [widget for widget in found if widget.region.area and screen.region.overlaps(widget.region)]
    return dict(zip(LETTERS, seen, strict=False))
