"""What is shown where there is no run yet."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType

from mlx_align_tui.plain import plain
from mlx_align_tui.widgets.keyed import Keyed

EMPTY = """\
[b $accent]No runs here yet.[/]

A run takes a model and pairs of answers, a better and a
worse one, and teaches the model to prefer the better kind.

  [b $accent]<<runs.demo>>[/]  [b]try the demo:[/] the small model and the sample data
     that come with this program, about a minute, no download
  [b $accent]<<runs.new>>[/]  [b]a new run[/] with your own model and data
  [b $accent]<<app.help>>[/]  what the keys do

[$quiet]Runs will be kept in {folder}[/]"""


class EmptyRuns(Keyed, can_focus=True):
    """What one can begin with; it has keys of its own.

    Args:
        folder: where runs will be kept.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "screen.demo", "Try the demo", id="runs.demo"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__(EMPTY.format(folder=plain(str(folder))), id="empty")
