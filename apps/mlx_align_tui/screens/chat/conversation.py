"""What was said: exchanges, the newest at the bottom."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll

from mlx_align_tui.screens.chat import texts
from mlx_align_tui.widgets.bubble import Bubble
from mlx_align_tui.widgets.keyed import Keyed


class Conversation(VerticalScroll, can_focus=True):
    """Exchanges one below the other, followed as they grow."""

    def compose(self) -> ComposeResult:
        """What is shown before anything was said."""
        yield Keyed(texts.EMPTY, id="empty")

    def on_mount(self) -> None:
        """Stay at the bottom, where answers grow."""
        self.anchor()

    def on_resize(self) -> None:
        """Have the scrollbar follow: Textual keeps the end in sight, and forgets to draw the bar anew."""
        self.call_after_refresh(self._draw_bar)

    def watch_virtual_size(self) -> None:
        """As above, where there is more to scroll."""
        self.call_after_refresh(self._draw_bar)

    def _draw_bar(self) -> None:
        self.vertical_scrollbar.refresh()

    def add(self, bubble: Bubble) -> None:
        """Add an exchange, which asks for its answers by itself."""
        self.query_one("#empty").display = False
        self.mount(bubble)
        self.anchor()

    @property
    def newest(self) -> Bubble | None:
        """The last exchange."""
        return next(reversed(list(self.query(Bubble))), None)

    def offer(self, choosable: bool) -> None:
        """Let the answers of the newest exchange be chosen with the mouse, or none."""
        newest = self.newest
        for bubble in self.query(Bubble):
            bubble.set_class(choosable and bubble is newest, "-open")

    async def forget(self) -> None:
        """Show nothing any more."""
        await self.query(Bubble).remove()
        self.query_one("#empty").display = True

    def page(self, by: int) -> None:
        """Scroll up (-1) or down (1) by what is seen."""
        (self.scroll_page_up if by < 0 else self.scroll_page_down)(animate=False)
