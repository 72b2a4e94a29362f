"""The step Launch: all that was chosen, and the run that is made of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import Button, Static

from mlx_align.errors import AlignError
from mlx_align.runs import RunDirectory
from mlx_align.settings import Resolved
from mlx_align_tui.keymap import ANSWERS
from mlx_align_tui.live.engines import Engines
from mlx_align_tui.live.programs import Fit
from mlx_align_tui.screens.new_run import texts
from mlx_align_tui.screens.new_run.draft import Draft

if TYPE_CHECKING:
    from mlx_align_tui.screens.base import AlignScreen


class Launch:
    """A run that is made and started in a thread, unless it is left before its engine is.

    Args:
        resolved: what was chosen.
        engines: start it.
    """

    def __init__(self, resolved: Resolved, engines: Engines) -> None:
        self._resolved, self._engines = resolved, engines
        self._lock = threading.Lock()
        self._left = self._starting = False

    def leave(self) -> bool:
        """Have it not start; False where its engine is being started already."""
        with self._lock:
            self._left = not self._starting
            return self._left

    def run(self) -> RunDirectory | None:
        """Make the run and start its engine; None if it was left meanwhile, and then nothing stays of it.

        Raises:
            AlignError: the model or the data cannot be used, or the engine cannot be started.
            OSError: a file cannot be read or written.
        """
        from mlx_align.api import prepare

        with self._engines.preparing():
            run = prepare(self._resolved)
        with self._lock:
            self._starting = not self._left
        if not self._starting:
            run.remove()
            return None
        self._engines.start(run)
        return run


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
        self._ready = False
        self._launch: Launch | None = None

    def compose(self) -> ComposeResult:
        """What was chosen, and three buttons."""
        yield Static(id="launch-text")
        with Horizontal(classes="answers"):
            yield Button("Launch", id="go", variant="primary", action="screen.launch")
            yield Button("Copy command", id="copy", action="screen.copy")
            yield Button("Save as TOML", id="save", action="screen.save")

    def on_unmount(self) -> None:
        """Start nothing after one has gone elsewhere."""
        self.leave()

    @property
    def busy(self) -> bool:
        """Whether a run is being made or started."""
        return self._launch is not None

    def leave(self) -> bool:
        """Have a run that is being made not start; False where its engine is being started already."""
        return self._launch is None or self._launch.leave()

    def show(self, draft: Draft, resolved: Resolved | None, fit: Fit | AlignError | str) -> None:
        """Show what was chosen; without a checked configuration nothing can be done with it."""
        self._ready = resolved is not None
        self.query_one("#launch-text", Static).update(texts.launch_text(draft, resolved, fit))
        self._offer()

    def _offer(self) -> None:
        self.query_one("#go", Button).disabled = self.busy or not self._ready
        for name in ("copy", "save"):
            self.query_one(f"#{name}", Button).disabled = not self._ready

    def launch(self, resolved: Resolved) -> None:
        """Make the run and start its engine, unless that is being done."""
        if self.busy:
            return
        screen = cast("AlignScreen", self.screen)
        launch = self._launch = Launch(resolved, screen.app.engines)
        self._offer()
        self.notify("checking model and data ...")

        def start() -> RunDirectory | None:
            run = None
            try:
                run = launch.run()
            finally:
                if run is None:
                    self.app.call_from_thread(self._over)
            return run

        screen.work(start, self._launched, group="launch")

    def _launched(self, run: RunDirectory | None) -> None:
        if run is not None:
            self.post_message(self.Launched(run))

    def _over(self) -> None:
        """Offer it again: it has failed, or was left."""
        self._launch = None
        if self.is_mounted:
            self._offer()
