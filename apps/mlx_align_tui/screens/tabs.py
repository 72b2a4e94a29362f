"""What screens with tabs share: a number for each, where the focus goes, and which was looked at last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import TabbedContent

from mlx_align_tui.screens.base import AlignScreen

FOCUSED = "VerticalScroll, Log, DataTable, OptionList"
"""What in a tab gets the focus when the tab is opened."""


def tab_keys(group: str, tabs: Sequence[str]) -> list[BindingType]:
    """1 opens the first tab, 2 the second and so on.

    Args:
        group: the part of the bindings' ids before the dot.
        tabs: the tabs' ids.
    """
    return [
        Binding(str(number), f"tab('{name}')", name.capitalize(), id=f"{group}.{name}_tab", show=False)
        for number, name in enumerate(tabs, 1)
    ]


class TabbedScreen(AlignScreen):
    """A screen with tabs, which opens at the one that was looked at last.

    Attributes:
        tabs: the tabs' ids; the first is where one begins.
    """

    tabs: ClassVar[tuple[str, ...]] = ()

    @property
    def tab(self) -> str:
        """The tab that is looked at, "" where there is none."""
        found = self.query(TabbedContent)
        return found.first().active if found else ""

    @property
    def last_tab(self) -> str:
        """The tab that was looked at last, here or before this start."""
        last = self.app.settings.tabs.get(self.crumb.lower(), "")
        return last if last in self.tabs else self.tabs[0]

    async def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Remember it, and offer the keys that it has."""
        name = str(event.pane.id)
        if name != self.last_tab:
            self.app.remember(tabs={**self.app.settings.tabs, self.crumb.lower(): name})
        self.refresh_bindings()

    def action_tab(self, name: str) -> None:
        """Look at another tab."""
        tabs = self.query_one(TabbedContent)
        tabs.active = name
        for widget in tabs.get_pane(name).query(FOCUSED):
            widget.focus()
