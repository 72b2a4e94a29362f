"""The table of targets: what each is, about how large it will be, and what it can be tried with here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from mlx_align_cli.display.text import UNKNOWN, one_line, size
from mlx_align_tui.live.targets import KINDS, LOADERS, Weights, needs_of, size_of

WIDTHS = {"": 1, "target": 12, "what it is": 24, "size": 8, "tried with": 23}
PADDING = 2

Values = Mapping[str, Mapping[str, str]]
"""Target -> option -> what was chosen."""


class TargetsTable(DataTable[Text]):
    """All targets, one a row."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "screen.options", "Options", id="export.options"),
    ]

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=1, id="targets")
        self._here: frozenset[str] | None = None
        self._weights: Weights | None = None
        self._values: Values = {}
        self._marked: Sequence[str] = ()

    def on_mount(self) -> None:
        """Make the rows."""
        for heading, width in WIDTHS.items():
            self.add_column(heading, width=width, key=heading)
        for name in KINDS:
            self.add_row(*self._cells(name), key=name)

    def on_resize(self, event: events.Resize) -> None:
        """Give what room there is to the words."""
        fixed = sum(WIDTHS.values()) - WIDTHS["what it is"] + PADDING * len(WIDTHS)
        self.ordered_columns[2].width = max(WIDTHS["what it is"], min(60, event.size.width - fixed))
        self.refresh()

    def show(
        self, here: frozenset[str] | None, weights: Weights | None, values: Values, marked: Sequence[str]
    ) -> None:
        """Show what is known now.

        Args:
            here: what this machine has; None while that is not known.
            weights: what sizes are estimated from, if it is known.
            values: what was chosen.
            marked: the targets that are to be exported.
        """
        self._here, self._weights, self._values, self._marked = here, weights, values, marked
        for name in KINDS:
            for heading, cell in zip(WIDTHS, self._cells(name), strict=True):
                self.update_cell(name, heading, cell)

    @property
    def current(self) -> str:
        """The target under the cursor."""
        return list(KINDS)[max(0, self.cursor_row)]

    def _cells(self, name: str) -> list[Text]:
        variables, values = self.app.theme_variables, self._values.get(name, {})
        bytes_ = UNKNOWN if self._weights is None else f"~{size(size_of(name, values, self._weights))}"
        return [
            Text("●" if name in self._marked else " ", style=variables.get("accent", "")),
            Text(name, style="bold"),
            Text(one_line(KINDS[name].says, 60)),
            Text(bytes_, justify="right"),
            self._needs(name, values),
        ]

    def _needs(self, name: str, values: Mapping[str, str]) -> Text:
        if self._here is None:
            return Text("looking ...", style=self.app.theme_variables.get("quiet", ""))
        loaders, place = needs_of(name, values)
        found = next((loader for loader in loaders if loader in self._here), loaders[0])
        line = self._need(found)
        return line if place is None else Text.assemble(line, " ", self._need(place))

    def _need(self, name: str) -> Text:
        there, variables = name in (self._here or ()), self.app.theme_variables
        colour = variables.get("success" if there else "warning", "")
        return Text.assemble(("✔ " if there else "✘ ", colour), LOADERS[name][0])
