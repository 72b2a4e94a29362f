"""A text that names keys, as they are bound now."""

from __future__ import annotations

from textual.widgets import Static

from mlx_align_tui.keymap import keyed


class Keyed(Static):
    """A text that names keys.

    Args:
        text: Textual markup with ids where keys are to be named; see `keymap.said`.
        id: the widget's id.
        classes: the widget's classes.
    """

    def __init__(self, text: str, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id, classes=classes)
        self._text = text

    def on_mount(self) -> None:
        """Show it."""
        self.again()

    def again(self) -> None:
        """Name the keys anew, which may have been changed."""
        self.update(keyed(self, self._text))
