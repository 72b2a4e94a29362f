"""The table of runs: as many columns as there is room for, changed in place so that the cursor stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from mlx_align.runs import RunDirectory
from mlx_align_cli.display.listing import short_name
from mlx_align_cli.display.text import UNKNOWN, one_line, sparkline
from mlx_align_tui.live.runs import Entry
from mlx_align_tui.widgets.badge import colour, sign

FIXED: tuple[tuple[str, int], ...] = (("", 1), ("method", 6), ("state", 12), ("step", 11), ("held out", 15))
"""Columns that are always as wide as this."""
LEAST = {"model": 10, "data": 8, "course": 8}
"""Columns that share what room there is, and the least that they need."""
NAME = 19
"""The width of a run's name, where there is room for it."""
PADDING = 2
ROOMY = 116


class RunsTable(DataTable[Text]):
    """Runs, newest first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open", id="runs.open", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(cursor_type="row", zebra_stripes=False, cell_padding=1, id="runs")
        self._entries: dict[str, Entry] = {}
        self._marked: Sequence[str] = ()
        self._widths: dict[str, int] = {}

    def on_resize(self, event: events.Resize) -> None:
        """Share the room anew."""
        widths = widths_for(event.size.width)
        if widths != self._widths:
            self._widths = widths
            self._rebuild()

    def show(self, entries: Sequence[Entry], marked: Sequence[str]) -> None:
        """Show these runs."""
        same = list(self._entries) == [entry.name for entry in entries]
        old, old_marked = self._entries, self._marked
        self._entries = {entry.name: entry for entry in entries}
        self._marked = list(marked)
        if not same:
            self._rebuild()
            return
        for name, entry in self._entries.items():
            if entry != old[name] or (name in marked) != (name in old_marked):
                self._change(name)

    @property
    def current(self) -> Entry | None:
        """The run under the cursor."""
        names = list(self._entries)
        return self._entries[names[self.cursor_row]] if 0 <= self.cursor_row < len(names) else None

    def run_of(self, key: str | None) -> RunDirectory | None:
        """The run in the row of this key."""
        entry = self._entries.get(key or "")
        return entry.run if entry else None

    def _rebuild(self) -> None:
        under = self.current.name if self.row_count and self.current else None
        row = self.cursor_row
        self.clear(columns=True)
        for heading, width in self._widths.items():
            self.add_column(heading, width=width, key=heading)
        for name in self._entries:
            self.add_row(*self._cells(name), key=name)
        names = list(self._entries)
        self.move_cursor(row=names.index(under) if under in names else min(row, len(names) - 1))

    def _change(self, name: str) -> None:
        for heading, cell in zip(self._widths, self._cells(name), strict=True):
            self.update_cell(name, heading, cell)

    def _cells(self, name: str) -> list[Text]:
        entry, variables = self._entries[name], self.app.theme_variables
        shown = {
            "": Text("●" if name in self._marked else " ", style=variables.get("accent", "")),
            "name": Text(short_name(name)),
            "method": Text(entry.method or UNKNOWN, style="bold"),
            "model": Text(entry.model.rstrip("/").rsplit("/", 1)[-1] or UNKNOWN),
            "data": Text(entry.data or UNKNOWN),
            "state": Text(
                f"{sign(entry.condition)} {entry.condition}", style=colour(entry.condition, variables)
            ),
            "step": Text(entry.steps_text),
            "held out": Text(entry.headline_text or UNKNOWN),
            "course": Text(
                sparkline(entry.course, self._widths.get("course", 1)), style=variables.get("curve-1", "")
            ),
        }
        return [_cut(shown[heading], width) for heading, width in self._widths.items()]


def _cut(cell: Text, width: int) -> Text:
    return Text(one_line(cell.plain, width) if cell.plain.strip() else cell.plain, style=cell.style)


def widths_for(total: int) -> dict[str, int]:
    """Column heading -> width, for a table that has so many cells in all, its padding included."""
    fixed = dict(FIXED)
    if total >= ROOMY:
        fixed["name"] = NAME
    least = dict(LEAST)
    room = total - sum(width + PADDING for width in [*fixed.values(), *least.values()])
    if room < 0:  # what says least goes first
        del least["data"]
        room += LEAST["data"] + PADDING
    share, rest = divmod(max(0, room), len(least))
    order = ("", "name", "method", "model", "data", "state", "step", "held out", "course")
    wide = {name: width + share + (rest if name == "course" else 0) for name, width in least.items()}
    return {heading: {**fixed, **wide}[heading] for heading in order if heading in {**fixed, **wide}}
