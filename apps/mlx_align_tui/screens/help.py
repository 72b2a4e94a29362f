"""Contextual help: what a screen is for, and its keys with the ids by which they can be changed."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Markdown, Static

from mlx_align_tui.keymap import UP_AND_DOWN, keyed


class HelpScreen(ModalScreen[None]):
    """Shows a text and a list of keys.

    Args:
        text: Markdown.
        keys: (key, what it does, binding id).
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1", "dismiss", "Close", id="help.close"),
        *UP_AND_DOWN,
    ]

    def __init__(self, text: str, keys: list[tuple[str, str, str]]) -> None:
        super().__init__()
        self._text, self._keys = text, keys

    def compose(self) -> ComposeResult:
        """The text and the keys, in a frame."""
        with VerticalScroll(classes="dialog help") as frame:
            frame.border_title = "Help"
            frame.border_subtitle = keyed(self, "<<help.close>> closes")
            yield Markdown(self._text)
            yield Static(self._table())

    def _table(self) -> Table:
        quiet = self.app.theme_variables.get("quiet", "")
        table = Table(box=None, padding=(0, 3, 0, 0), show_header=True, header_style="bold")
        for heading in ("key", "what it does", "id, to change the key in tui.toml"):
            table.add_column(heading)
        for key, what, name in self._keys:
            table.add_row(Text(key, style="bold"), Text(what), Text(name, style=quiet))
        return table
