"""What was put together, taken elsewhere: as a command in the clipboard, as a file."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from mlx_align.errors import AlignError
from mlx_align.paths import typed
from mlx_align_tui.keymap import keyed
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.new_run.draft import Draft

ABOUT = "Only what you chose is written; the rest keeps its defaults. It is used with -c FILE."


class AskNameScreen(ModalScreen[str | None]):
    """Asks for the name of a file that is not there yet; answers with None for none.

    Args:
        title: what is asked.
        about: what happens with it.
        name: what to begin with.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "Close", id="ask.close")]

    def __init__(self, title: str, about: str, name: str) -> None:
        super().__init__()
        self._title, self._about, self._begin = title, about, name

    def compose(self) -> ComposeResult:
        """The question."""
        with Vertical(classes="dialog") as frame:
            frame.border_title = self._title
            frame.border_subtitle = keyed(self, "enter saves · <<ask.close>> closes")
            yield Static(self._about, classes="quiet", markup=False)
            yield Input(self._begin, select_on_focus=False)
            yield Static(id="ask-wrong")

    def on_input_changed(self) -> None:
        """Nothing is wrong with a name that is still typed."""
        self.query_one("#ask-wrong", Static).update("")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take it, if it can be taken."""
        name = event.value.strip()
        wrong = _wrong(typed(name)) if name else "type a name"
        if wrong:
            self.query_one("#ask-wrong", Static).update(f"[$error]✘ {plain(wrong)}[/]")
        else:
            self.dismiss(name)


def _wrong(path: Path) -> str:
    """Why a file cannot be made there; "" if it can."""
    try:
        if path.exists():
            return "there is a file of this name already"
        return "" if path.parent.is_dir() else f"there is no folder {path.parent}"
    except OSError as error:  # the name is too long, or one may not look there
        return f"that cannot be a file's name here: {error.strerror}"


def copy(screen: AlignScreen, draft: Draft) -> None:
    """Put the command into the clipboard."""
    try:
        screen.app.copy_to_clipboard(draft.command())
    except AlignError as error:
        screen.app.tell(error)
        return
    screen.notify("The command is in the clipboard, if your terminal allows that.")


def save(screen: AlignScreen, draft: Draft, then: Callable[[], None]) -> None:
    """Ask for a name, and write what was chosen to a file.

    Args:
        screen: where it is asked.
        draft: what was chosen.
        then: called once it is written.
    """

    def done(path: Path) -> None:
        command = shlex.join(["mlx-align", draft.method, "-c", str(path)])
        screen.notify(command, title="saved", markup=False)
        then()

    def named(name: str | None) -> None:
        if name is not None:
            path = typed(name)
            screen.work(lambda: _write(path, draft), lambda _: done(path), group="save")

    screen.app.push_screen(AskNameScreen("Save as TOML", ABOUT, f"{draft.method}.toml"), named)


def _write(path: Path, draft: Draft) -> None:
    text = draft.toml()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        message = "there is a file of this name already"
        raise AlignError(message, where=str(path), hint="Choose another name.") from None
    except OSError:  # a full disk: half a file would only be in the way of the next try
        path.unlink(missing_ok=True)
        raise
