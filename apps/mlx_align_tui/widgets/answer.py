"""One voice's answer, growing while it is given."""

from __future__ import annotations

from typing import Literal

from textual.widgets import Static

from mlx_align.chat import Done
from mlx_align_cli.display.text import clean, plural
from mlx_align_tui.plain import plain

Standing = Literal["", "better", "worse"]


class Answer(Static):
    """An answer in a frame that names its voice.

    Args:
        label: whose it is, or where it stands if that is not told yet.
    """

    DEFAULT_CSS = """
    Answer { width: 1fr; height: auto; min-height: 3; border: round $border-blurred; padding: 0 1; }
    Answer { border-title-color: $quiet; border-subtitle-color: $quiet; }
    Answer.-growing { border: round $border; }
    Answer.-better { border: round $success; border-title-color: $success; }
    Answer.-worse { color: $quiet; }
    """

    def __init__(self, label: str) -> None:
        super().__init__("…", markup=False)
        self.border_title = plain(label)
        self.text = ""

    def grow(self, text: str) -> None:
        """Show what has come so far."""
        self.text = text
        self.add_class("-growing")
        self.update(clean(text) or "…")

    def finish(self, done: Done) -> None:
        """Show the whole answer and how it ended."""
        self.grow(done.text)
        self.remove_class("-growing")
        if not done.text:
            self.update("(it said nothing)")
        words = [plural(done.tokens, "token")]
        words += [f"{done.tokens / done.seconds:.0f}/s"] if done.seconds > 0 else []
        words += ["stopped"] if done.cancelled else [] if done.finished else ["cut at the limit"]
        self.border_subtitle = " · ".join(words)

    def abandon(self) -> None:
        """Say that no more will come."""
        self.remove_class("-growing")
        if not self.text:
            self.update("–")
        self.border_subtitle = "broken off" if self.text else "no answer"

    def call(self, label: str, standing: Standing) -> None:
        """Say whose it is and, once one was chosen, which it was."""
        self.border_title = f"✔ {plain(label)}, better" if standing == "better" else plain(label)
        self.set_class(standing == "better", "-better")
        self.set_class(standing == "worse", "-worse")
