"""One value of a few: left, right and space change it; enter is left to what it stands in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from mlx_align_tui.plain import plain


class Choice(Static, can_focus=True):
    """A value with the arrows that change it.

    Args:
        options: the values.
        value: the one that is chosen.
    """

    DEFAULT_CSS = """
    Choice { height: 1; width: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
    Choice:focus { background: $block-cursor-background; color: $block-cursor-foreground; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "Before", id="choice.before", show=False),
        Binding("right,space", "step(1)", "Next one", id="choice.next", show=False),
    ]

    class Changed(Message):
        """Another value was chosen."""

        def __init__(self, choice: Choice, value: str) -> None:
            super().__init__()
            self.choice, self.value = choice, value

        @property
        def control(self) -> Choice:
            """The widget it comes from."""
            return self.choice

    def __init__(self, options: Sequence[str], value: str, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.options, self.value = list(options), value

    def on_mount(self) -> None:
        """Show the value."""
        self._show()

    def offer(self, options: Sequence[str], value: str) -> None:
        """Replace the values without telling anybody."""
        self.options, self.value = list(options), value
        self._show()

    def _show(self) -> None:
        self.update(f"‹ [b]{plain(self.value)}[/] ›")

    def on_click(self, event: Click) -> None:
        """The next value."""
        self.action_step(1)

    def action_step(self, by: int) -> None:
        """Choose the value so many places on; after the last comes the first."""
        if not self.options:
            return
        place = self.options.index(self.value) if self.value in self.options else -1 if by > 0 else 0
        self.value = self.options[(place + by) % len(self.options)]
        self._show()
        self.post_message(self.Changed(self, self.value))
