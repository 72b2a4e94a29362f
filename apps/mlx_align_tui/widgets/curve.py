"""Curves: a plot with a line above it that names them and says their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Grid, Vertical
from textual.message import Message
from textual.widgets import Static
from textual_hires_canvas import Canvas
from textual_plot import HiResMode, PlotWidget
from textual_plot.plot_widget import Legend

from mlx_align_cli.display.text import metric
from mlx_align_tui.live.columns import Series
from mlx_align_tui.widgets.canvas import QuickCanvas, ThinCanvas
from mlx_align_tui.widgets.plotting import (
    LEVELS,
    Array,
    Ticks,
    decimate,
    limits,
    logarithm,
    smooth,
    stretches,
    value_at,
    visible,
)

LEFT, BOTTOM = 7, 1
LEAST_WIDTH, LEAST_HEIGHT = 12, 4
"""Where a plot is smaller than this it is left empty: axes alone would fill it."""


@dataclass(frozen=True)
class Line:
    """One curve of a plot.

    Args:
        label: what it is called.
        key: the metric, which says how its values are written.
        series: its values.
        colour: a variable of the theme, such as "curve-1".
        sparse: evaluations are few: they are not smoothed.
    """

    label: str
    key: str
    series: Series
    colour: str
    sparse: bool = False


@dataclass(frozen=True)
class View:
    """How curves are looked at; all plots of a screen share one.

    Attributes:
        smoothing: updates in a mean, one of LEVELS.
        log_scale: log10 of the values.
        axis: "step" or "time".
        zoom: the range of the axis that is shown, None for all.
        cursor: the place on the axis whose values are told, None for the newest.
    """

    smoothing: int = 1
    log_scale: bool = False
    axis: Literal["step", "time"] = "step"
    zoom: tuple[float, float] | None = None
    cursor: float | None = None

    def smoother(self, by: int) -> View:
        """More smoothing (1) or less (-1)."""
        place = max((n for n, level in enumerate(LEVELS) if level <= self.smoothing), default=0) + by
        return replace(self, smoothing=LEVELS[min(max(place, 0), len(LEVELS) - 1)])

    def zoomed(self, whole: tuple[float, float], factor: float) -> View:
        """A range so many times as wide, around the cursor or the middle, kept inside the whole."""
        low, high = self.zoom or whole
        centre = self.cursor if self.cursor is not None and low <= self.cursor <= high else (low + high) / 2
        share = (centre - low) / (high - low) if high > low else 0.5
        width = (high - low) * factor
        if width >= whole[1] - whole[0]:
            return replace(self, zoom=None)
        start = min(max(centre - share * width, whole[0]), whole[1] - width)
        return replace(self, zoom=(start, start + width))


def axis_of(series: Series, view: View) -> Array:
    """The axis of a view."""
    return series.step if view.axis == "step" else series.seconds


def extent(lines: Sequence[Line], view: View) -> tuple[float, float] | None:
    """The whole range of the axis over these curves, None without points."""
    axes = [axis_of(line.series, view) for line in lines if len(line.series.step)]
    if not axes:
        return None
    low, high = min(float(axis[0]) for axis in axes), max(float(axis[-1]) for axis in axes)
    return (low, high) if high > low else (low, low + 1.0)


class Curve(PlotWidget, inherit_bindings=False):
    """The plot itself: at most two points a column are drawn, however long the series are."""

    ALLOW_SELECT = False
    can_focus = False

    @dataclass
    class Ranged(Message):
        """A range was dragged open with the mouse."""

        low: float
        high: float

    @dataclass
    class Scrolled(Message):
        """The wheel was turned over a place of the axis: closer (factor < 1) or further."""

        place: float
        factor: float

    def __init__(self) -> None:
        super().__init__(allow_pan_and_zoom=False)
        self._drawn: tuple[tuple[Line, ...], View, tuple[float, float] | None] | None = None
        self._dragged: float | None = None

    def compose(self) -> ComposeResult:
        """What PlotWidget is made of, with a thin frame."""
        with Grid():
            yield QuickCanvas(1, 1, id="margin-top")
            yield QuickCanvas(1, 1, id="margin-left")
            yield ThinCanvas(1, 1, id="plot")
            yield QuickCanvas(1, 1, id="margin-bottom")
        yield Legend(id="legend")

    def combine_quad_with_pixel(self, quad: tuple[int, int, int, int], canvas: Canvas, x: int, y: int) -> str:
        """A tick on the frame, thin as that."""
        top, right, bottom, left = (min(part, 1) for part in quad)
        return str(super().combine_quad_with_pixel((top, right, bottom, left), canvas, x, y))

    def on_mount(self) -> None:
        """No room for what is not used: the names are in the panel's own line."""
        self.margin_top, self.margin_left, self.margin_bottom = 0, LEFT, BOTTOM

    def on_resize(self, event: events.Resize) -> None:
        """Other columns, other points."""
        self.call_after_refresh(self._again)

    def _again(self) -> None:
        if self._drawn is not None and self.is_attached:
            self.draw(*self._drawn)

    @property
    def columns(self) -> int:
        """How many columns the curves have."""
        return max(1, self.size.width - LEFT - 2)

    def draw(self, lines: Sequence[Line], view: View, whole: tuple[float, float] | None) -> None:
        """Draw curves.

        Args:
            lines: the curves.
            view: how.
            whole: the range of the axis over all plots of the screen, None without points.
        """
        self._drawn = (tuple(lines), view, whole)
        self.clear()
        if whole is None or self.size.width < LEAST_WIDTH or self.size.height < LEAST_HEIGHT:
            return
        low, high = view.zoom or whole
        heights: list[Array] = []
        for line in lines:
            for x, y in points(line, view, (low, high), self.columns):
                heights.append(y)
                ends = 2 if len(x) == 1 else 1  # a line needs two
                colour = self._colour(line.colour)
                self.plot(
                    np.repeat(x, ends), np.repeat(y, ends), line_style=colour, hires_mode=HiResMode.BRAILLE
                )
        self._scale((low, high), limits(heights), view)
        if view.cursor is not None and low <= view.cursor <= high:
            self.add_v_line(view.cursor, self._colour("accent"))
        if self._dragged is not None:
            self.add_v_line(self._dragged, self._colour("quiet"))

    def _scale(self, x: tuple[float, float], y: tuple[float, float], view: View) -> None:
        self.set_xlimits(*x)
        self.set_ylimits(*y)
        across, up = max(3, self.columns // 12), max(3, (self.size.height - BOTTOM) // 3)
        self.set_x_formatter(Ticks(across, "time" if view.axis == "time" else "linear"))
        self.set_y_formatter(Ticks(up, "log" if view.log_scale else "linear"))

    def _colour(self, variable: str) -> str:
        return self.app.theme_variables.get(variable, "white")

    def _place(self, event: events.MouseEvent) -> float:
        canvas = self.query_one("#plot", Canvas)
        column = min(max(event.screen_x - canvas.region.x, 1), max(1, canvas.size.width - 2))
        return self.get_coordinate_from_pixel(column, 1)[0]

    @on(events.MouseDown)
    def begin_range(self, event: events.MouseDown) -> None:
        """A drag opens a range."""
        event.prevent_default()
        if event.button == 1:
            self._dragged = self._place(event)

    @on(events.MouseMove)
    def move_range(self, event: events.MouseMove) -> None:
        """Nothing is panned: a range is being opened."""
        event.prevent_default()

    @on(events.MouseUp)
    def end_range(self, event: events.MouseUp) -> None:
        """Show the range that was dragged open; a click alone puts the cursor there."""
        event.prevent_default()
        if self._dragged is None:
            return
        low, high = sorted((self._dragged, self._place(event)))
        self._dragged = None
        self.post_message(self.Ranged(low, high))

    @on(events.MouseScrollDown)
    def further(self, event: events.MouseScrollDown) -> None:
        """The wheel shows more of the axis."""
        event.prevent_default()
        event.stop()
        self.post_message(self.Scrolled(self._place(event), 1.25))

    @on(events.MouseScrollUp)
    def closer(self, event: events.MouseScrollUp) -> None:
        """The wheel shows less of the axis."""
        event.prevent_default()
        event.stop()
        self.post_message(self.Scrolled(self._place(event), 0.8))


def points(line: Line, view: View, shown: tuple[float, float], columns: int) -> list[tuple[Array, Array]]:
    """What is drawn of a curve: smoothed, in the range that is shown, at most two points a column, in parts
    with gaps between them.
    """
    x, window = axis_of(line.series, view), 1 if line.sparse else view.smoothing
    part = visible(x, *shown)
    lead = max(0, part.start - window)  # the first mean needs those before it
    y = smooth(line.series.value[lead : part.stop], window)[part.start - lead :]
    x, y = x[part], logarithm(y) if view.log_scale else y
    return stretches(x, y, decimate(x, y, columns), (shown[1] - shown[0]) / columns)


class CurvePanel(Vertical, can_focus=True):
    """A plot and the line above it.

    Args:
        title: what is plotted.
        name: by which the screen knows it.
    """

    DEFAULT_CSS: ClassVar[str] = """
    CurvePanel { height: 1fr; width: 1fr; }
    CurvePanel > .title { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    CurvePanel > Curve { height: 1fr; }
    CurvePanel .plot--axis { color: $border-blurred; }
    CurvePanel:focus .plot--axis { color: $primary; }
    CurvePanel .plot--tick { color: $quiet; text-style: none; }
    """

    def __init__(self, title: str, name: str) -> None:
        super().__init__(name=name)
        self.title = title
        self.lines: tuple[Line, ...] = ()

    def compose(self) -> ComposeResult:
        """The line and the plot."""
        yield Static(classes="title")
        yield Curve()

    def show(self, lines: Sequence[Line], view: View, whole: tuple[float, float] | None) -> None:
        """Draw these curves."""
        self.lines = tuple(lines)
        self.query_one(Curve).draw(lines, view, whole)
        self.query_one(".title", Static).update(self._heading(view))

    def _heading(self, view: View) -> Text:
        """The title, and each curve's name and value; signs of the curves where there is room for them."""
        place = view.cursor if view.cursor is not None else float("inf")
        for mark, gap in (("⠒ ", "  "), ("", " ")):
            heading = Text(self.title, style="bold", no_wrap=True, overflow="ellipsis", end="")
            for line in self.lines:
                window = 1 if line.sparse else view.smoothing
                value = value_at(axis_of(line.series, view), line.series.value, place, window)
                style = f"not bold {self.app.theme_variables.get(line.colour, '')}"
                heading.append(gap).append(f"{mark}{line.label} ", style=style)
                heading.append(metric(line.key, value), style="not bold")
            if heading.cell_len <= self.size.width - 2:
                break
        return heading
