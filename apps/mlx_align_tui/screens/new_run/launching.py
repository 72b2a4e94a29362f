"""The step Launch: all that was chosen, and the run that is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Button, Static

from mlx_align.errors import AlignError
from mlx_align.runs import RunDirectory
from mlx_align.settings import Resolved
from mlx_align_tui.keymap import ANSWERS
from mlx_align_tui.live.programs import Fit
from mlx_align_tui.screens.new_run import texts
from mlx_align_tui.screens.new_run.draft import Draft

if TYPE_CHECKING:
    from mlx_align_tui.screens.base import AlignScreen


class LaunchStep(VerticalScroll, can_focus=False):
    """All that was chosen, and what can be done with it."""

    BINDINGS = ANSWERS

    class Launched(Message):
        """An engine works on the run."""

        def __init__(self, run: RunDirectory) -> None:
            super().__init__()
            self.run = run

    def __init__(self) -> None:
        super().__init__()
        self._ready = self._busy = False

    def compose(self) -> ComposeResult:
        """What was chosen, and three buttons."""
        yield Static(id="launch-text")
        with Horizontal(classes="answers"):
            yield Button("Launch", id="go", variant="primary", action="screen.launch")
            yield Button("Copy command", id="copy", action="screen.copy")
            yield Button("Save as TOML", id="save", action="screen.save")

    def show(self, draft: Draft, resolved: Resolved | None, fit: Fit | AlignError | str) -> None:
        """Show what was chosen; without a checked configuration nothing can be done with it."""
        self._ready = resolved is not None
        self.query_one("#launch-text", Static).update(texts.launch_text(draft, resolved, fit))
        self._offer()

    def _offer(self) -> None:
        self.query_one("#go", Button).disabled = self._busy or not self._ready
        for name in ("copy", "save"):
            self.query_one(f"#{name}", Button).disabled = not self._ready

    def launch(self, resolved: Resolved) -> None:
        """Make the run and start its engine, unless that is being done."""
        if self._busy:
            return
        self._busy = True
        self._offer()
        self.notify("checking model and data ...")

        def start() -> RunDirectory:
            try:
                return self._start(resolved)
            finally:
                self._busy = False
                self.app.call_from_thread(self._offer)

        self._base.work(start, self._launched, group="launch")

    def _launched(self, run: RunDirectory) -> None:
        self.post_message(self.Launched(run))

    @property
    def _base(self) -> AlignScreen:
        return cast("AlignScreen", self.screen)

    def _start(self, resolved: Resolved) -> RunDirectory:
        from mlx_align.api import prepare

        engines = self._base.app.engines
        with engines.preparing():
            run = prepare(resolved)
        engines.start(run)
        return run
