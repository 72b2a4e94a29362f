"""What must hold for every frame: no widget lies over another, and no text ends in a cut word.

With FRAMES=FOLDER every frame that is checked is also stored there as SVG, to be looked at.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from textual.app import App
from textual.geometry import Region
from textual.screen import Screen
from textual.scrollbar import ScrollBar, ScrollBarCorner
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static
from textual.widgets._footer import FooterKey
from textual.widgets._toast import Toast

from mlx_align_tui.screens.jump import Letter
from tests.tui.snapshots import INTERVAL, PATIENCE, picture

FOLDER = "FRAMES"
OVER = (Toast, Letter)
"""Widgets that are meant to lie over others."""


async def check(app: App[Any], name: str) -> None:
    """Look at the screen; what is drawn a moment later, such as the line of keys, is waited for.

    Raises:
        AssertionError: with all that is wrong.
    """
    if folder := os.environ.get(FOLDER):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name}.svg").write_text(picture(app), encoding="utf-8")
    end = time.monotonic() + PATIENCE
    while (wrong := [*overlaps(app.screen), *cuts(app.screen)]) and time.monotonic() < end:
        await asyncio.sleep(INTERVAL)
    assert not wrong, f"{name}:\n" + "\n".join(wrong)


def overlaps(screen: Screen[Any]) -> Iterator[str]:
    """Pairs of widgets with content that lie over each other."""
    placed = [(widget, region.intersection(clip)) for widget, region, clip in shown(screen)]
    seen = [(widget, region) for widget, region in placed if region.area and not isinstance(widget, OVER)]
    for (one, here), (other, there) in itertools.combinations(seen, 2):
        common = here.intersection(there)
        if common.area and one not in other.ancestors and other not in one.ancestors:
            yield f"{one!r} and {other!r} share {common}"


def cuts(screen: Screen[Any]) -> Iterator[str]:
    """Widgets of which a part is not seen, without an ellipsis and without a way to scroll there."""
    for widget, region, clip in shown(screen):
        if isinstance(widget, Letter):
            continue
        if region.right > clip.right and not scrolls(widget, "x"):
            yield f"{widget!r} {region} is cut at the right by {clip}"
        if region.bottom > clip.bottom and not scrolls(widget, "y"):
            yield f"{widget!r} {region} is cut at the bottom by {clip}"
        if isinstance(widget, DataTable):
            yield from cut_cells(widget)
        elif isinstance(widget, Static) and not isinstance(widget, Toast):
            yield from cut_text(widget)
        elif isinstance(widget, Input) and cell_len(widget.placeholder) > widget.content_size.width:
            yield f"{widget!r} has no room for its placeholder"


def shown(screen: Screen[Any]) -> Iterator[tuple[Widget, Region, Region]]:
    """Widgets without children: (widget, where it lies, what it is clipped by)."""
    for widget, place in screen._compositor.full_map.items():
        bare = not any(child.display for child in widget.children)
        if bare and place.region.area and not isinstance(widget, ScrollBar | ScrollBarCorner):
            yield widget, place.region, place.clip


def scrolls(widget: Widget, axis: str) -> bool:
    """Whether somebody can scroll to the rest of a widget."""
    return any(
        isinstance(above, Widget)
        and (above.allow_vertical_scroll if axis == "y" else above.allow_horizontal_scroll)
        for above in widget.ancestors
    )


def cut_cells(table: DataTable[Any]) -> Iterator[str]:
    """Cells with more text than their column has room for, and columns that are not seen."""
    columns = table.ordered_columns
    width = sum(column.get_render_width(table) for column in columns)
    if width > table.content_size.width:
        yield f"{table!r}: its columns are {width} wide, and it is {table.content_size.width}"
    for number in range(table.row_count):
        for column, cell in zip(columns, table.get_row_at(number), strict=True):
            if cell_len(str(cell)) > column.get_render_width(table) - 2 * table.cell_padding:
                yield f"{table!r}: {str(cell)!r} is wider than its column {column.label}"


def cut_text(widget: Static) -> Iterator[str]:
    """Text that has more lines than are shown, or lines that are longer and end without an ellipsis."""
    size = widget.content_size
    if not size.area or isinstance(widget, FooterKey):
        return
    needed = widget.get_content_height(widget.app.size, widget.app.size, size.width)
    if needed > size.height and not (widget.allow_vertical_scroll or scrolls(widget, "y")):
        yield f"{widget!r}: {needed} lines, and {size.height} are shown"
    styles = widget.styles
    if styles.text_wrap == "nowrap" and styles.text_overflow != "ellipsis":
        wide = widget.get_content_width(widget.app.size, widget.app.size)
        if wide > size.width:
            yield f"{widget!r}: {wide} cells wide, and {size.width} are shown"
