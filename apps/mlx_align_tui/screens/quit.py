"""Questions that need an answer before something is done."""

from __future__ import annotations

from typing import ClassVar, Literal

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from mlx_align_cli.display.text import clean, plural
from mlx_align_tui.keymap import ANSWERS
from mlx_align_tui.widgets.keyed import Keyed

Leaving = Literal["detach", "stop", "cancel"]
SHOWN_NAMES = 6


class QuitScreen(ModalScreen[Leaving]):
    """What is to become of the engines that were started here.

    Args:
        names: the runs on which they work.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "answer('detach')", "Detach", id="quit.detach"),
        Binding("s", "answer('stop')", "Stop and save", id="quit.stop"),
        Binding("escape,c", "answer('cancel')", "Cancel", id="quit.cancel"),
        *ANSWERS,
    ]

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self._names = names

    def compose(self) -> ComposeResult:
        """The question and three answers."""
        count = len(self._names)
        with Vertical(classes="dialog") as frame:
            frame.border_title = f"{plural(count, 'run')} still training"
            yield Static(clean("\n".join(_first(self._names))), classes="names", markup=False)
            yield Keyed(
                "[b]Detach[/] leaves them training; they are here when you come back.\n"
                "[b]Stop and save[/] has each write a checkpoint and end; <<runs.resume>> resumes it later."
            )
            with Horizontal(classes="answers"):
                yield Button("Detach", id="detach", variant="primary")
                yield Button("Stop and save", id="stop", variant="warning")
                yield Button("Cancel", id="cancel")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take the answer."""
        self.action_answer(str(event.button.id))

    def action_answer(self, answer: Leaving | str) -> None:
        """Take the answer."""
        self.dismiss("detach" if answer == "detach" else "stop" if answer == "stop" else "cancel")


def _first(names: list[str]) -> list[str]:
    """As many names as there is room for at 80x24, and how many there are besides."""
    if len(names) <= SHOWN_NAMES:
        return names
    return [*names[: SHOWN_NAMES - 1], f"and {len(names) - SHOWN_NAMES + 1} more"]


class ConfirmScreen(ModalScreen[bool]):
    """A question with yes and no; no is what Enter and Escape mean.

    Args:
        title: the question.
        text: what yes would do, as plain text.
        yes: the word for yes.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="confirm.yes"),
        Binding("n,escape", "answer(False)", "No", id="confirm.no"),
        *ANSWERS,
    ]

    def __init__(self, title: str, text: str, yes: str) -> None:
        super().__init__()
        self._title, self._text, self._yes = title, text, yes

    def compose(self) -> ComposeResult:
        """The question and two answers."""
        with Vertical(classes="dialog") as frame:
            frame.border_title = self._title
            yield Static(clean(self._text), markup=False)
            with Horizontal(classes="answers"):
                yield Button("No", id="no")
                yield Button(self._yes, id="yes", variant="error")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Take the answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, answer: bool) -> None:
        """Take the answer."""
        self.dismiss(answer)
