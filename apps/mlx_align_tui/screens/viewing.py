"""What screens with curves share: how these are looked at, the keys for it, and that it is remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Literal

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import TabbedContent

from mlx_align_cli.display.text import duration
from mlx_align_tui.screens.tabs import TabbedScreen
from mlx_align_tui.settings import Curves
from mlx_align_tui.widgets.curve import View
from mlx_align_tui.widgets.curve_grid import CurveGrid

CURVES = "curves"
"""The tab that they are in."""


class ViewingScreen(TabbedScreen):
    """Curves in one tab and what is told of them in others, of runs that are read in a thread of their own.

    Attributes:
        of_curves: actions that are about curves, and offered only where these are seen.
        gone: set when the screen has been left, which ends the reading.
    """

    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "smooth(1)", "Smooth", id="curves.smoother", key_display="+"),
        Binding("minus", "smooth(-1)", "Less", id="curves.rougher", key_display="-", show=False),
        Binding("L,shift+l", "log_scale", "Log", id="curves.log", key_display="L"),
        Binding("t", "axis", "Time", id="curves.axis"),
        Binding("z", "zoom(0.5)", "Zoom", id="curves.zoom"),
        Binding("Z,shift+z", "zoom(2.0)", "Zoom out", id="curves.zoom_out", show=False),
        Binding("left", "cursor(-1)", "Cursor left", id="curves.left", show=False),
        Binding("right", "cursor(1)", "Cursor right", id="curves.right", show=False),
        Binding("shift+left", "cursor(-10)", "Ten left", id="curves.far_left", show=False),
        Binding("shift+right", "cursor(10)", "Ten right", id="curves.far_right", show=False),
    ]
    of_curves: ClassVar[tuple[str, ...]] = ("smooth", "log_scale", "axis", "zoom", "cursor")

    def __init__(self) -> None:
        super().__init__()
        self.gone = threading.Event()

    def begin(self, read: Callable[[], None]) -> None:
        """Look at the tab and the curves as they were looked at last, and begin to read.

        Args:
            read: reads until `gone` is set; called in a thread.
        """
        kept = self.app.settings.curves
        self.query_one(CurveGrid).view = View(kept.smoothing, kept.log_scale, kept.axis)
        self.action_tab(self.last_tab)
        self.run_worker(read, thread=True, group="read", exit_on_error=False)

    def on_unmount(self) -> None:
        """End reading."""
        self.gone.set()

    async def show(self) -> None:
        """Show what was read last, in the tab that is looked at."""

    async def on_resize(self, event: events.Resize) -> None:
        """Other room, other columns."""
        await self.show()

    async def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Fill the tab."""
        await self.show()

    @property
    def view(self) -> View:
        """How the curves are looked at."""
        return self.query_one(CurveGrid).view

    def look(self, view: View) -> None:
        """Look at the curves another way, and remember it."""
        self.query_one(CurveGrid).look(view)
        self.say_view()
        kept = {"smoothing": view.smoothing, "log_scale": view.log_scale, "axis": view.axis}
        self.app.remember(curves=Curves.model_validate(kept))

    def on_curve_grid_looked(self, event: CurveGrid.Looked) -> None:
        """The mouse has changed the view."""
        self.say_view()

    @property
    def subject(self) -> str:
        """What the screen is about, for the line at the top."""
        return ""

    @property
    def standing(self) -> list[str]:
        """What is unusual besides the view, as Textual markup."""
        return []

    def say_view(self) -> None:
        """Say at the top in which way the curves are looked at, as far as it is not the usual one."""
        words = [*self.standing, *words_of(self.view)]
        self.say_where(self.subject, f"[$quiet]{' · '.join(words)}[/]" if words else "")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is about curves is offered where they are."""
        return self.tab == CURVES if action in self.of_curves else True

    def action_smooth(self, by: int) -> None:
        """Means over more updates, or over fewer."""
        self.look(self.view.smoother(by))

    def action_log_scale(self) -> None:
        """Logarithmic scale, or linear."""
        self.look(replace(self.view, log_scale=not self.view.log_scale))

    def action_axis(self) -> None:
        """Time, or steps."""
        other: Literal["step", "time"] = "time" if self.view.axis == "step" else "step"
        self.look(replace(self.view, axis=other, zoom=None, cursor=None))

    def action_zoom(self, factor: float) -> None:
        """Show a range so many times as wide, around the cursor."""
        self.query_one(CurveGrid).zoom(factor)
        self.say_view()

    def action_cursor(self, by: int) -> None:
        """Move the cursor by columns."""
        self.query_one(CurveGrid).step_cursor(by)
        self.say_view()

    def action_back(self) -> None:
        """Let go of cursor and zoom; where there are none, leave."""
        if any(grid.let_go() for grid in self.query(CurveGrid)):
            self.say_view()
        else:
            super().action_back()


def words_of(view: View) -> list[str]:
    """What is unusual about a view."""
    words = [f"mean of {view.smoothing}"] if view.smoothing > 1 else []
    words += ["log"] if view.log_scale else []
    words += ["zoomed"] if view.zoom else []
    words += ["by time"] if view.axis == "time" else []
    if view.cursor is not None:
        words.append(f"at {duration(view.cursor) if view.axis == 'time' else f'step {view.cursor:.0f}'}")
    return words
