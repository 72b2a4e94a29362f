"""The exports that a run has."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual import events
from textual.widgets import DataTable

from mlx_align_cli.display.text import one_line, percent, size
from mlx_align_tui.live.exporting import Existing

WIDTHS = {"target": 12, "name": 20, "step": 6, "size": 8, "when it was made": 23}
PADDING = 2


class ExportsTable(DataTable[Text]):
    """One export a row."""

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=1, id="made")
        self._exports: Sequence[Existing] = ()
        self._room = WIDTHS["name"]

    def on_resize(self, event: events.Resize) -> None:
        """Give what room there is to the names."""
        fixed = sum(WIDTHS.values()) - WIDTHS["name"] + PADDING * len(WIDTHS)
        self._room = max(12, event.size.width - fixed)
        self.show(self._exports)

    def show(self, exports: Sequence[Existing]) -> None:
        """Show these."""
        row, self._exports = self.cursor_row, exports
        self.clear(columns=True)
        self.display = bool(exports)
        for heading, width in {**WIDTHS, "name": self._room}.items():
            self.add_column(heading, width=width)
        for one in exports:
            self.add_row(
                Text(one.target, style="bold"),
                Text(one_line(one.path.name, self._room)),
                Text(f"{one.step:,}", justify="right"),
                Text(size(one.size), justify="right"),
                self._verified(one),
            )
        self.move_cursor(row=min(row, len(exports) - 1))

    @property
    def current(self) -> Existing | None:
        """The export under the cursor."""
        return self._exports[self.cursor_row] if 0 <= self.cursor_row < len(self._exports) else None

    def _verified(self, one: Existing) -> Text:
        variables, figures = self.app.theme_variables, one.verification.get("figures")
        if not one.verification.get("verified") or not figures:
            return Text("✘ not verified", style=variables.get("warning", ""))
        words = f"✔ {figures['loader'].split()[0]}, {percent(figures['share'])}"
        return Text(one_line(words, WIDTHS["when it was made"]), style=variables.get("success", ""))
