"""Runs in the command palette."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from mlx_align.runs import RunDirectory, list_runs
from mlx_align_cli.display.text import clean
from mlx_align_tui.screens import PLACES

if TYPE_CHECKING:
    from mlx_align_tui.app import AlignApp

OFFERED = 5
"""How many of the newest runs are offered before anything is typed."""


class RunsProvider(Provider):
    """Finds runs by parts of their names."""

    def _commands(self) -> list[tuple[str, str, Callable[[], None]]]:
        app = cast("AlignApp", self.app)
        places = [(name, place) for name, place in PLACES.items() if place.needs == "run"]
        return [
            (clean(f"{run.name}: {place.title}"), place.about, partial(app.go, name, run))
            for run in self._runs
            for name, place in places
        ]

    async def startup(self) -> None:
        """Look which runs there are."""
        self._runs: list[RunDirectory] = list_runs(cast("AlignApp", self.app).root)

    async def discover(self) -> Hits:
        """The newest runs."""
        for name, about, command in self._commands()[:OFFERED]:
            yield DiscoveryHit(Content(name), command, text=name, help=about)

    async def search(self, query: str) -> Hits:
        """The runs whose names fit."""
        matcher = self.matcher(query)
        for name, about, command in self._commands():
            score, places = matcher.fuzzy_search.match(query, name)
            if score > 0:
                shown = Content(name)  # the matcher's own `highlight` reads names as markup
                for place in places:
                    shown = shown.stylize(matcher.match_style, place, place + 1)
                yield Hit(score, shown, command, text=name, help=about)
