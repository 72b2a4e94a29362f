"""The question which of a run's adapters is to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from mlx_align_cli.display.text import one_line
from mlx_align_tui.keymap import UP_AND_DOWN, keyed
from mlx_align_tui.live.adapters import Adapter

TITLE, MARKS, MEASURED = 12, 16, 34
"""The widths of what is said of an adapter."""


class WeightsScreen(ModalScreen[str | None]):
    """Offers adapters; answers with the name of one, None if it is to stay as it is.

    Args:
        adapters: which there are.
        now: the one that is loaded, None if there is none.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Stay", id="weights.stay"),
        *UP_AND_DOWN,
    ]

    def __init__(self, adapters: Sequence[Adapter], now: Adapter | None) -> None:
        super().__init__()
        self._adapters, self._now = adapters, now

    def compose(self) -> ComposeResult:
        """One line for each, with what held-out rows said when it was saved."""
        with Vertical(classes="dialog") as frame:
            frame.border_title = "Which step answers as tuned?"
            frame.border_subtitle = keyed(self, "enter loads it · <<weights.stay>> leaves it as it is")
            yield OptionList(*(Option(self._line(each), id=each.name) for each in self._adapters))

    def on_mount(self) -> None:
        """Begin at the one that is loaded."""
        loaded, names = self._now.name if self._now else "", [adapter.name for adapter in self._adapters]
        self.query_one(OptionList).highlighted = names.index(loaded) if loaded in names else 0

    def _line(self, adapter: Adapter) -> Text:
        variables = self.app.theme_variables
        here = self._now is not None and adapter.name == self._now.name
        line = Text(no_wrap=True).append("● " if here else "  ", style=variables.get("accent", ""))
        line.append(adapter.title.ljust(TITLE), style=f"bold {variables.get('foreground', '')}")
        line.append(adapter.marks.ljust(MARKS), style=variables.get("success", ""))
        return line.append(one_line(adapter.measured, MEASURED))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Take it."""
        self.dismiss(event.option.id)
