"""Runs side by side: one measure's curves over each other, all measures, and the settings that differ."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Static, TabbedContent, TabPane

from mlx_align.runs import RunDirectory
from mlx_align_cli.display.text import plural
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.compare import tables
from mlx_align_tui.screens.compare.reading import Measure, Side, follow, measures_of, title_of
from mlx_align_tui.settings import Curves
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.curve import Line, View
from mlx_align_tui.widgets.curve_grid import CurveGrid

TABS = ("curves", "measures", "settings")
EMPTY = """\
[b $accent]Nothing is marked.[/]

Go back with esc, mark two runs or more with space, and press c."""
HELP = """\
# Compare

The runs that were marked, under letters: **1** one measure's curves over each other, **2** all measures of
their adapters on held-out rows (★ is the best), **3** the settings in which they differ.

m and M go through the measures; those that all runs have come first. + and - smooth, L is a logarithmic
scale, t time instead of steps, z and Z zoom, arrows move a cursor that tells values, esc lets go of it all.

Losses and margins are compared within one method only: in another they are another formula.
"""


class CompareScreen(AlignScreen):
    """Compares runs, whatever their methods; those that run go on.

    Args:
        runs: the runs, in the order of their letters.
    """

    crumb = "Compare"
    help_text = HELP
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "measure(1)", "Measure", id="compare.measure"),
        Binding("M,shift+m", "measure(-1)", "Measure before", id="compare.measure_before", show=False),
        Binding("plus,equals_sign", "smooth(1)", "Smooth", id="compare.smoother", key_display="+"),
        Binding("minus", "smooth(-1)", "Less", id="compare.rougher", key_display="-", show=False),
        Binding("L,shift+l", "log_scale", "Log", id="compare.log", key_display="L"),
        Binding("t", "axis", "Time", id="compare.axis"),
        Binding("z", "zoom(0.5)", "Zoom", id="compare.zoom"),
        Binding("Z,shift+z", "zoom(2.0)", "Zoom out", id="compare.zoom_out", show=False),
        Binding("left", "cursor(-1)", "Cursor left", id="compare.left", show=False),
        Binding("right", "cursor(1)", "Cursor right", id="compare.right", show=False),
        *(
            Binding(str(n), f"tab('{name}')", name.capitalize(), id=f"compare.{name}_tab", show=False)
            for n, name in enumerate(TABS, 1)
        ),
    ]

    class Looked(Message):
        """What the runs are like now."""

        def __init__(self, sides: list[Side]) -> None:
            super().__init__()
            self.sides = sides

    def __init__(self, runs: Sequence[RunDirectory]) -> None:
        super().__init__()
        self.runs = list(runs)
        self.sides: list[Side] = []
        self.measures: list[Measure] = []
        self.measure: Measure | None = None
        self._gone = threading.Event()

    def body(self) -> ComposeResult:
        """The legend, and below it the tabs."""
        if not self.runs:
            yield Static(EMPTY, id="empty")
            return
        with VerticalScroll(id="legend-room", can_focus=False):
            yield Static("reading the logs ...", id="legend")
        with TabbedContent(id="tabs"):
            with TabPane("1 curves", id="curves"):
                with Horizontal(id="chooser"):
                    yield Static("measure", id="chooser-name")
                    yield Choice((), "none yet", id="measure")
                yield CurveGrid(id="grid")
            with TabPane("2 measures", id="measures"), VerticalScroll(can_focus=True):
                yield Static(id="measures-text", classes="page")
            with TabPane("3 settings", id="settings"), VerticalScroll(can_focus=True):
                yield Static(id="settings-text", classes="page")

    def on_mount(self) -> None:
        """Begin to read."""
        self.say_where(plural(len(self.runs), "run"))
        if not self.runs:
            return
        kept = self.app.settings.curves
        self.query_one(CurveGrid).view = View(kept.smoothing, kept.log_scale, kept.axis)
        self.run_worker(self._read, thread=True, group="read", exit_on_error=False)

    def on_unmount(self) -> None:
        """End reading."""
        self._gone.set()

    def _read(self) -> None:
        follow(self.runs, lambda sides: self.post_message(self.Looked(sides)), self._gone.wait)

    async def on_compare_screen_looked(self, event: Looked) -> None:
        """Show what is new."""
        self.sides, self.measures = event.sides, measures_of(event.sides)
        if self.measure not in self.measures:
            self.measure = self.measures[0] if self.measures else None
        chosen = title_of(self.measure) if self.measure else "none yet"
        self.query_one(Choice).offer([title_of(measure) for measure in self.measures], chosen)
        await self.show()

    async def on_resize(self, event: events.Resize) -> None:
        """Other room, other columns."""
        await self.show()

    async def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Fill the tab that is looked at now."""
        await self.show()
        self.refresh_bindings()

    async def show(self) -> None:
        """Show the runs as they were read last."""
        if not self.sides or not self.is_mounted:
            return
        variables, width = self.app.theme_variables, max(20, self.size.width - 4)
        self.query_one("#legend", Static).update(tables.legend(self.sides, variables, self.size.width))
        match self.query_one(TabbedContent).active:
            case "curves":
                await self._show_curves()
            case "measures":
                rows = tables.measure_rows(self.sides)
                said = [
                    Text(f"\n{note}", style=variables.get("quiet", "")) for note in tables.notes(self.sides)
                ]
                table = tables.table(self.sides, rows, variables, width)
                self.query_one("#measures-text", Static).update(Group(table, *said))
            case "settings":
                rows = tables.difference_rows(self.sides)
                same = Text("All settings are the same.", style=variables.get("quiet", ""))
                table = tables.table(self.sides, rows, variables, width) if rows else same
                self.query_one("#settings-text", Static).update(table)

    async def _show_curves(self) -> None:
        grid, measure = self.query_one(CurveGrid), self.measure
        title = title_of(measure) if measure else ""
        await grid.have({title: ""}, 1)
        lines = [
            Line(
                side.letter, measure[1], side.curves[measure], tables.colour_of(number), measure[0] == "valid"
            )
            for number, side in enumerate(self.sides)
            if measure is not None and measure in side.curves
        ]
        grid.show({title: lines})

    @property
    def view(self) -> View:
        """How the curves are looked at."""
        return self.query_one(CurveGrid).view

    def _look(self, view: View) -> None:
        self.query_one(CurveGrid).look(view)
        kept = {"smoothing": view.smoothing, "log_scale": view.log_scale, "axis": view.axis}
        self.app.remember(curves=Curves.model_validate(kept))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is about curves is offered where they are."""
        if action in ("measure", "smooth", "log_scale", "axis", "zoom", "cursor"):
            return self.is_mounted and bool(self.runs) and self.query_one(TabbedContent).active == "curves"
        return bool(self.runs) if action == "tab" else True

    async def on_choice_changed(self, event: Choice.Changed) -> None:
        """Draw another measure."""
        titles = [title_of(measure) for measure in self.measures]
        if event.value in titles:
            self.measure = self.measures[titles.index(event.value)]
            self.query_one(CurveGrid).let_go()
            await self.show()

    def action_measure(self, by: int) -> None:
        """The next measure, or the one before."""
        self.query_one(Choice).action_step(by)

    def action_smooth(self, by: int) -> None:
        """Means over more updates, or over fewer."""
        self._look(self.view.smoother(by))

    def action_log_scale(self) -> None:
        """Logarithmic scale, or linear."""
        self._look(replace(self.view, log_scale=not self.view.log_scale))

    def action_axis(self) -> None:
        """Time, or steps."""
        axis = "time" if self.view.axis == "step" else "step"
        self._look(replace(self.view, axis=axis, zoom=None, cursor=None))

    def action_zoom(self, factor: float) -> None:
        """Show a range so many times as wide, around the cursor."""
        self.query_one(CurveGrid).zoom(factor)

    def action_cursor(self, by: int) -> None:
        """Move the cursor by columns."""
        self.query_one(CurveGrid).step_cursor(by)

    def action_back(self) -> None:
        """Let go of cursor and zoom; where there are none, leave."""
        if not self.runs or not self.query_one(CurveGrid).let_go():
            super().action_back()

    def action_tab(self, name: str) -> None:
        """Look at another tab."""
        tabs = self.query_one(TabbedContent)
        tabs.active = name
        for widget in tabs.get_pane(name).query(VerticalScroll):
            widget.focus()
