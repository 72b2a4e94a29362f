"""Plots in a grid that share one axis, one cursor and one zoom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from textual.containers import Grid
from textual.message import Message

from mlx_align_tui.widgets.curve import Curve, CurvePanel, Line, View, extent


class CurveGrid(Grid):
    """Plots in as many columns as there is room for.

    Attributes:
        view: how curves are looked at.
        whole: the range of the axis over all plots, None without points.
    """

    class Looked(Message):
        """The view was changed with the mouse."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002  (Textual's own name)
        super().__init__(id=id)
        self.view = View()
        self.whole: tuple[float, float] | None = None
        self._lines: Mapping[str, Sequence[Line]] = {}
        self._titles: dict[str, str] = {}
        self._alone: str | None = None

    @property
    def panels(self) -> list[CurvePanel]:
        """The plots."""
        return list(self.query(CurvePanel))

    async def have(self, titles: dict[str, str], columns: int) -> None:
        """Have these plots.

        Args:
            titles: name -> title, in their order.
            columns: how many stand side by side.
        """
        self.styles.grid_size_columns = 1 if self._alone in titles else max(1, min(columns, len(titles)))
        if titles == self._titles:
            return
        self._titles = dict(titles)
        focused = self.screen.focused.name if isinstance(self.screen.focused, CurvePanel) else None
        await self.remove_children()
        await self.mount(*(CurvePanel(title, name) for name, title in titles.items()))
        self._show_alone()
        for panel in self.panels:
            if panel.name == focused:
                panel.focus()

    def show(self, lines: Mapping[str, Sequence[Line]]) -> None:
        """Draw these curves: name of the plot -> its lines."""
        self._lines = lines
        self.draw()

    def look(self, view: View) -> None:
        """Look at them another way."""
        self.view = view
        self.draw()

    def draw(self) -> None:
        """Draw what is there."""
        self.whole = extent([line for lines in self._lines.values() for line in lines], self.view)
        for panel in self.panels:
            if panel.display:
                panel.show(self._lines.get(panel.name or "", ()), self.view, self.whole)

    def step_cursor(self, by: int) -> None:
        """Move the cursor by columns of the plot; it begins at the end that it leaves."""
        if self.whole is None or not self.panels:
            return
        low, high = self.view.zoom or self.whole
        column = (high - low) / max(1, self.panels[0].query_one(Curve).columns)
        start = (
            self.view.cursor if self.view.cursor is not None else (high + column if by < 0 else low - column)
        )
        self.look(replace(self.view, cursor=min(max(start + by * column, low), high)))

    def zoom(self, factor: float) -> None:
        """Show a range so many times as wide."""
        if self.whole is not None:
            self.look(self.view.zoomed(self.whole, factor))

    def let_go(self) -> bool:
        """Let go of cursor, zoom and the plot that is alone; False if there was none of them."""
        view = replace(self.view, zoom=None, cursor=None)
        held = view != self.view or self._alone is not None
        self._alone = None
        self._show_alone()
        self.look(view)
        return held

    def toggle_alone(self) -> None:
        """Give all the room to the plot that has the focus, or back to all."""
        focused = self.screen.focused
        name = focused.name if isinstance(focused, CurvePanel) else None
        self._alone = None if self._alone is not None else name
        self._show_alone()
        self.call_after_refresh(self.draw)

    def _show_alone(self) -> None:
        for panel in self.panels:
            panel.display = self._alone in (None, panel.name)
        if self._alone is not None:
            self.styles.grid_size_columns = 1

    def on_curve_ranged(self, event: Curve.Ranged) -> None:
        """Zoom to what was dragged open; a click puts the cursor there."""
        if self.whole is None:
            return
        low, high = self.view.zoom or self.whole
        if event.high - event.low < (high - low) / 40:
            self.look(replace(self.view, cursor=event.low))
        else:
            self.look(replace(self.view, zoom=(event.low, event.high)))
        self.post_message(self.Looked())

    def on_curve_scrolled(self, event: Curve.Scrolled) -> None:
        """Zoom around the mouse."""
        if self.whole is not None:
            around = replace(self.view, cursor=event.place)
            self.look(replace(around.zoomed(self.whole, event.factor), cursor=self.view.cursor))
        self.post_message(self.Looked())
