"""The last two steps of a new run: whether it fits, and its launch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Button, Static

from mlx_align.errors import AlignError, ConfigError
from mlx_align.runs import RunDirectory
from mlx_align.settings import Resolved
from mlx_align_tui.live.programs import Fit, Planning
from mlx_align_tui.screens.new_run import texts
from mlx_align_tui.screens.new_run.draft import Draft
from mlx_align_tui.screens.new_run.saving import AskNameScreen

if TYPE_CHECKING:
    from mlx_align_tui.screens.base import AlignScreen

PAUSE = 0.7
"""Seconds without a change after which memory is planned again."""


class PlanStep(VerticalScroll):
    """The memory that the run needs, planned in a process of its own.

    Attributes:
        fit: the plan, why there is none, or what is being done.
    """

    class Planned(Message):
        """There is another `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.fit: Fit | AlignError | str = "not planned yet"
        self._planning = Planning()
        self._pause: Timer | None = None
        self._asked: list[str] = []

    def compose(self) -> ComposeResult:
        """What to change, and the plan."""
        yield Static(id="remedy")
        yield Static(id="plan-text")

    def on_unmount(self) -> None:
        """Plan no more."""
        self._planning.close()

    def say(self, fit: Fit | AlignError | str) -> None:
        """Show a plan, an error or what is being done."""
        self.fit = fit
        self.query_one("#plan-text", Static).update(texts.plan_text(fit))
        remedy = self.query_one("#remedy", Static)
        remedy.update(text := texts.remedy_text(fit))
        remedy.display = bool(text)
        self.post_message(self.Planned())

    def later(self, draft: Draft) -> None:
        """Plan once nothing has changed for a moment."""
        self.say("planning ...")
        self._asked = []
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(PAUSE, lambda: self.now(draft))

    def now(self, draft: Draft, *, fetch: bool = False) -> None:
        """Plan; `fetch` says that a model that is not on this disk may be fetched for it."""
        try:
            arguments = self._asked = draft.plan_arguments()
        except ConfigError:  # told at its field
            return

        def attempt() -> None:
            try:
                answer: Fit | AlignError | None = self._planning.ask(arguments, fetch=fetch)
            except AlignError as error:
                answer = error
            if answer is not None:
                self.app.call_from_thread(self._answered, arguments, answer)

        self.run_worker(attempt, thread=True, group="plan", exclusive=True, exit_on_error=False)

    def _answered(self, arguments: list[str], answer: Fit | AlignError) -> None:
        if self.is_mounted and arguments is self._asked:
            self.say(answer)


class LaunchStep(VerticalScroll, can_focus=False):
    """All that was chosen, and what can be done with it."""

    class Launched(Message):
        """An engine works on the run."""

        def __init__(self, run: RunDirectory) -> None:
            super().__init__()
            self.run = run

    def __init__(self) -> None:
        super().__init__()
        self._draft: Draft | None = None
        self._resolved: Resolved | None = None
        self._busy = False

    def compose(self) -> ComposeResult:
        """What was chosen, and three buttons."""
        yield Static(id="launch-text")
        with Horizontal(classes="answers"):
            yield Button("Launch", id="go", variant="primary")
            yield Button("Copy command", id="copy")
            yield Button("Save as TOML", id="save")

    def show(self, draft: Draft, resolved: Resolved | None, fit: Fit | AlignError | str) -> None:
        """Show what was chosen; without a checked configuration it cannot be launched."""
        self._draft, self._resolved = draft, resolved
        self.query_one("#launch-text", Static).update(texts.launch_text(draft, resolved, fit))
        self._offer()

    def _offer(self) -> None:
        self.query_one("#go", Button).disabled = self._resolved is None or self._busy

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do what the button says."""
        event.stop()
        {"go": self.launch, "copy": self.copy, "save": self.save}[str(event.button.id)]()

    def copy(self) -> None:
        """Put the command into the clipboard."""
        if self._draft is not None:
            self.app.copy_to_clipboard(texts.command_text(self._draft))
            self.notify("The command is in the clipboard, if your terminal allows that.")

    def save(self) -> None:
        """Write what was chosen to a file."""
        if self._draft is not None:
            about = "Only what you chose is written; the rest keeps its defaults. It is used with -c FILE."
            ask = AskNameScreen("Save as TOML", about, f"{self._draft.method}.toml")
            self.app.push_screen(ask, self._write)

    def _write(self, name: str | None) -> None:
        if name is None or self._draft is None:
            return
        path, draft = Path(name).expanduser(), self._draft

        def write() -> None:
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(draft.toml())
            except FileExistsError:
                message = "there is a file of this name already"
                raise AlignError(message, where=str(path), hint="Choose another name.") from None

        self._base.work(write, lambda _: self.notify(f"saved as {path}"), group="save")

    @property
    def _base(self) -> AlignScreen:
        return cast("AlignScreen", self.screen)

    def launch(self) -> None:
        """Make the run and start its engine."""
        resolved = self._resolved
        if resolved is None or self._busy:
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

    def _start(self, resolved: Resolved) -> RunDirectory:
        from mlx_align.api import prepare

        run = prepare(resolved)
        self._base.app.engines.start(run)
        return run
