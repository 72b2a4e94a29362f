"""Runs side by side: one measure's curves over each other, all measures, and the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.console import Group
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Static, TabbedContent, TabPane

from mlx_align.runs import RunDirectory
from mlx_align_cli.display.text import plural
from mlx_align_tui.screens.compare import tables
from mlx_align_tui.screens.compare.reading import Measure, Side, follow, measures_of, title_of
from mlx_align_tui.screens.tabs import tab_keys
from mlx_align_tui.screens.viewing import ViewingScreen
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.curve import Line
from mlx_align_tui.widgets.curve_grid import CurveGrid
from mlx_align_tui.widgets.keyed import Keyed

EMPTY = """\
[b $accent]Nothing is marked.[/]

Go back with <<app.back>>, mark two runs or more with <<runs.mark>>, and press <<runs.compare>>."""
HELP = """\
# Compare

The runs that were marked, under letters: **curves**, one measure's over each other, **measures**, all of
their adapters on held-out rows (★ is the best), **settings**, those in which they differ.

<<compare.measure>> and <<compare.measure_before>> go through the measures; those that all runs have come
first. <<curves.smoother>> and <<curves.rougher>> smooth, <<curves.log>> is a logarithmic scale,
<<curves.axis>> time instead of steps, <<curves.zoom>> and <<curves.zoom_out>> zoom, <<curves.left>> and
<<curves.right>> move a cursor that tells values, <<app.back>> lets go of it all.

Losses and margins are compared within one method only: in another they are another formula.
"""


class CompareScreen(ViewingScreen):
    """Compares runs, whatever their methods; those that run go on.

    Args:
        runs: the runs, in the order of their letters.
    """

    crumb = "Compare"
    help_text = HELP
    tabs = ("curves", "measures", "settings")
    of_curves = (*ViewingScreen.of_curves, "measure")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "measure(1)", "Measure", id="compare.measure"),
        Binding("M,shift+m", "measure(-1)", "Measure before", id="compare.measure_before", show=False),
        *tab_keys("compare", tabs),
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

    def body(self) -> ComposeResult:
        """The legend, and below it the tabs."""
        if not self.runs:
            yield Keyed(EMPTY, id="empty")
            return
        with VerticalScroll(id="legend-room", can_focus=False):
            yield Static("reading the logs ...", id="legend")
        with TabbedContent(initial=self.last_tab, id="tabs"):
            with TabPane("1 curves", id="curves"):
                with Horizontal(id="chooser"):
                    yield Static("measure", id="chooser-name")
                    yield Choice((), "none yet", id="measure")
                    yield Static(id="chooser-caution")
                yield CurveGrid(id="grid")
            with TabPane("2 measures", id="measures"), VerticalScroll(can_focus=True):
                yield Static(id="measures-text", classes="page")
            with TabPane("3 settings", id="settings"), VerticalScroll(can_focus=True):
                yield Static(id="settings-text", classes="page")

    def on_mount(self) -> None:
        """Begin to read."""
        if self.runs:
            self.begin(self._read)
            self.say_view()
        else:
            self.say_where(self.subject)

    def _read(self) -> None:
        follow(self.runs, lambda sides: self.post_message(self.Looked(sides)), self.gone.wait)

    @property
    def subject(self) -> str:
        """How many runs there are."""
        return plural(len(self.runs), "run")

    async def on_compare_screen_looked(self, event: Looked) -> None:
        """Show what is new."""
        self.sides, self.measures = event.sides, measures_of(event.sides)
        if self.measure not in self.measures:
            self.measure = self.measures[0] if self.measures else None
        chosen = title_of(self.measure) if self.measure else "none yet"
        self.query_one(Choice).offer([title_of(measure) for measure in self.measures], chosen)
        await self.show()

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
        said = tables.caution(self.sides, measure) if measure else ""
        self.query_one("#chooser-caution", Static).update(said)
        await grid.have({title: ""}, 1)
        lines = [
            Line(
                side.letter, measure[1], side.curves[measure], tables.colour_of(number), measure[0] == "valid"
            )
            for number, side in enumerate(self.sides)
            if measure is not None and measure in side.curves
        ]
        grid.show({title: lines})

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without runs there is nothing to look at."""
        return bool(self.runs) if action == "tab" else super().check_action(action, parameters)

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
