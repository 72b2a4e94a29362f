"""The question which key something is to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from mlx_align_tui.keymap import Key, shown
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.doctor.keys import in_the_way, pressed


class RebindScreen(ModalScreen[str | None]):
    """Waits for a key that is free; answers with it, None if it is to stay as it is.

    Args:
        key: which is to be changed.
        every: all keys.
        changed: binding id -> keys, of those that were changed.
    """

    def __init__(self, key: Key, every: Sequence[Key], changed: Mapping[str, str]) -> None:
        super().__init__()
        self._key, self._every, self._changed = key, every, changed

    def compose(self) -> ComposeResult:
        """The question, and what was wrong with the last answer."""
        now = shown(self._key.current(self._changed))
        with Vertical(classes="dialog") as frame:
            frame.border_title = "Another key"
            frame.border_subtitle = "esc leaves it as it is"
            yield Static(
                f"[b]{plain(self._key.what)}[/] [$quiet]({self._key.name})[/] is now [b]{plain(now)}[/]."
            )
            yield Static("Press the key that it is to have.", id="answer")

    def on_key(self, event: events.Key) -> None:
        """Take the key, unless it means something else already."""
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.dismiss(None)
            return
        new = pressed(event.key)
        other = in_the_way(self._key, new, self._every, self._changed)
        if other is None:
            self.dismiss(new)
            return
        taken = f"{plain(shown(new))} is {plain(other.what)} already ({other.name})."
        self.query_one("#answer", Static).update(f"[$error]{taken}[/] Press another key.")
