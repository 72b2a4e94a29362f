"""The display for a terminal: a live screen while the run goes on, then a report."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

from mlx_align.events import Event
from mlx_align.run_state import RunState
from mlx_align.runs import RunDirectory
from mlx_align_cli.display.base import Display
from mlx_align_cli.display.report import report
from mlx_align_cli.display.screen import HINT, screen
from mlx_align_cli.display.terminal import without_control_echo

WIDEST = 120


class RichDisplay(Display):
    """Draws the newest state four times a second, in a thread of its own that reads one frozen value."""

    tells_adapter = True

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._state = RunState()
        self._name = ""
        self._notice = HINT
        self._live = Live(
            get_renderable=self._screen, console=self._console, refresh_per_second=4, redirect_stdout=False
        )

    def __enter__(self) -> Self:
        self._screen_is_on = ExitStack()
        self._screen_is_on.enter_context(without_control_echo())
        self._live.start()
        self._screen_is_on.callback(self._live.stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # the terminal may have gone
            self._screen_is_on.close()

    def begin(self, name: str, hint: str) -> None:
        """Name the run that is shown, and say what Ctrl-C does."""
        self._name, self._notice = name, hint

    def show(self, event: Event, state: RunState) -> None:
        """Remember the state; the next refresh draws it."""
        self._state = state

    def notice(self, text: str) -> None:
        """Show a message on the lower edge."""
        self._notice = text

    def end(self, run: RunDirectory, state: RunState) -> None:
        """Leave the last screen standing and print the report below it."""
        self._state = state
        self._live.stop()
        self._console.print(report(run, state, self._width))

    @property
    def _width(self) -> int:
        return min(self._console.width, WIDEST)

    def _screen(self) -> RenderableType:
        return screen(
            self._state,
            self._name,
            width=self._width,
            height=self._console.height,
            now=time.time(),
            notice=self._notice,
        )
