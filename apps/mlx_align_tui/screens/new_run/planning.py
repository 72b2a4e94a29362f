"""The step Plan: whether the run fits in this machine's memory."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static

from mlx_align.errors import AlignError, ConfigError
from mlx_align.hub import is_missing
from mlx_align_tui.keymap import keyed
from mlx_align_tui.live.programs import Fit, Planning
from mlx_align_tui.screens.base import of_the_system
from mlx_align_tui.screens.new_run import texts
from mlx_align_tui.screens.new_run.draft import Draft

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
        self.query_one("#plan-text", Static).update(keyed(self, texts.plan_text(fit)))
        remedy = self.query_one("#remedy", Static)
        remedy.update(keyed(self, text := texts.remedy_text(fit)))
        remedy.display = bool(text)
        self.post_message(self.Planned())

    def later(self, draft: Draft) -> None:
        """Plan once nothing has changed for a moment."""
        self.say("planning ...")
        self.wait()
        self._pause = self.set_timer(PAUSE, lambda: self.now(draft))

    def wait(self) -> None:
        """Plan nothing of what was to be planned soon, and take no answer that is still to come."""
        self._asked = []
        if self._pause is not None:
            self._pause.stop()

    def now(self, draft: Draft) -> None:
        """Plan; a model that is not on this disk is not fetched for it."""
        try:
            arguments = self._asked = draft.plan_arguments()
            model = draft.resolved().config.model
        except ConfigError:  # told at its field
            return

        def attempt() -> None:
            try:
                answer: Fit | AlignError | None
                if is_missing(model.path, model.revision):
                    answer = AlignError(
                        f"'{model.path}' is not on this disk yet",
                        hint="<<new.plan>> asks the hub how large it is, and fetches it if you say so.",
                    )
                else:
                    answer = self._planning.ask(arguments)
            except AlignError as error:
                answer = error
            except OSError as error:
                answer = of_the_system(error)
            if answer is not None:
                self.app.call_from_thread(self._answered, arguments, answer)

        self.run_worker(attempt, thread=True, group="plan", exclusive=True, exit_on_error=False)

    def _answered(self, arguments: list[str], answer: Fit | AlignError) -> None:
        if self.is_mounted and arguments is self._asked:
            self.say(answer)
