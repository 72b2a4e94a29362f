"""Whether the model is there: that it is being loaded, what is to be known of it, or why it is gone."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import ProgressBar, Static

LOADING = "[$quiet]loading the model, in a process of its own ...[/]"


class Loading(Vertical):
    """A notice, and a bar that moves while a model is loaded."""

    busy = False
    """Whether one is."""

    def compose(self) -> ComposeResult:
        """The notice and the bar."""
        yield Static(id="notice")
        yield ProgressBar(total=None, show_eta=False, show_percentage=False, id="bar")

    def begin(self) -> None:
        """Show that it is being loaded."""
        self._show(LOADING, busy=True)

    def end(self, notice: str) -> None:
        """Show what there is to be said of it, as Textual markup; "" for nothing."""
        self._show(notice, busy=False)

    def _show(self, notice: str, *, busy: bool) -> None:
        self.busy = self.query_one("#bar").display = busy
        line = self.query_one("#notice", Static)
        line.update(notice)
        line.display = bool(notice)
