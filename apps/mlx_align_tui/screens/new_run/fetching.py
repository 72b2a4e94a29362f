"""Asking whether a model may be fetched, and showing how far that is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from mlx_align.config import RunConfig
from mlx_align.errors import AlignError
from mlx_align.hub import is_missing
from mlx_align_cli.display.text import duration, plural, size
from mlx_align_tui.keymap import ANSWERS
from mlx_align_tui.live.fetching import Fetching, Parcel, Speed
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.base import AlignScreen, of_the_system

Model = tuple[str, str | None]
"""A model's name, and its revision."""
BAR = 40
"""Cells of the bar."""
BASE = "base"
"""The judge that is the trained model itself; as in `rewards.judge`."""
KEPT = (
    "Whole files stay in the cache, and those that are not whole are removed: fetching again goes on with "
    "what is missing."
)


def models_of(config: RunConfig) -> list[Model]:
    """The models that a run needs: the one that is taught, and those that judge."""
    judges = [one.options.get("model", BASE) for one in config.rewards if one.name == "judge"]
    return [(config.model.path, config.model.revision), *((name, None) for name in judges if name != BASE)]


def with_models(screen: AlignScreen, models: Sequence[Model], then: Callable[[], None]) -> None:
    """Do something once models are on this disk; each that is not is asked about, and then fetched.

    Args:
        screen: where it is asked.
        models: what is needed.
        then: not called where one of them is not wanted.
    """

    def ask(missing: Model | None) -> None:
        if missing is None:
            then()
        else:
            screen.app.push_screen(FetchScreen(*missing), again)

    def again(there: bool | None) -> None:
        if there:
            with_models(screen, models, then)

    screen.work(lambda: next((one for one in models if is_missing(*one)), None), ask, group="models")


class FetchScreen(ModalScreen[bool]):
    """Answers with whether the model is on this disk now.

    Args:
        name: owner/name.
        revision: None for the newest.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Not now, or stop", id="fetch.leave"),
        *ANSWERS,
    ]

    def __init__(self, name: str, revision: str | None) -> None:
        super().__init__()
        self._model, self._revision = name, revision
        self._fetching: Fetching | None = None
        self._begun = self._stopping = self._there = False
        self._speed = Speed()

    def compose(self) -> ComposeResult:
        """What there is to fetch, how far it is, and two answers."""
        with Vertical(classes="dialog") as frame:
            frame.border_title = "Fetch the model?"
            yield Static(id="fetch-text")
            yield Static(id="fetch-progress")
            with Horizontal(classes="answers"):
                yield Button("Not now", id="leave")
                yield Button("Fetch", id="fetch", variant="primary", disabled=True)

    def on_mount(self) -> None:
        """Ask how large it is."""
        self.query_one("#fetch-progress").display = False
        self._look()

    def on_unmount(self) -> None:
        """Leave nothing at work."""
        if self._fetching is not None:
            self._fetching.leave()

    def _look(self) -> None:
        self._begun = self._stopping = False
        self._speed = Speed()
        self._say(f"[b]{plain(self._model)}[/] is not on this disk. Asking the hub how large it is ...")
        self.query_one("#fetch-progress").display = False
        self.query_one("#leave", Button).label = "Not now"
        fetching = self._fetching = Fetching(self._model, self._revision)

        def listen() -> None:
            try:
                for message in fetching.messages():
                    self.app.call_from_thread(self._heard, message)
            except AlignError as error:
                self.app.call_from_thread(self._failed, error)
            except OSError as error:
                self.app.call_from_thread(self._failed, of_the_system(error))

        self.run_worker(listen, thread=True, group="fetch", exclusive=True, exit_on_error=False)

    def _say(self, text: str) -> None:
        self.query_one("#fetch-text", Static).update(text)

    def _heard(self, message: dict[str, Any]) -> None:
        if not self.is_mounted:
            return
        match message["type"]:
            case "parcel":
                self._offer(Parcel.of(message))
            case "progress" if not self._stopping:
                self._show(message["done"], message["total"])
            case "done":
                self.notify(f"{self._model} is on this disk now.", markup=False)
                self._there = True
                self.on_screen_resume()
            case "stopped":
                self._again(f"[$warning]stopped[/]  {KEPT}")

    def on_screen_resume(self) -> None:
        """Close once the model is there; not while another question lies over this one."""
        if self._there and self.is_current:
            self.dismiss(True)

    def _offer(self, parcel: Parcel) -> None:
        """Say how large it is; what is whole already needs no answer."""
        if not parcel.files:
            self._begin()
            return
        room = f"{size(parcel.free)} free there"
        lines = [
            f"[b]{plain(self._model)}[/] is not on this disk.",
            f"[b $accent]{size(parcel.size)}[/] in {plural(parcel.files, 'file')} would come from the "
            f"Hugging Face hub, into {plain(parcel.folder)} ({room}).",
        ]
        if parcel.size > parcel.free:
            lines.append("[$error]✘ That is more than there is room for.[/]")
        self._say("\n\n".join(lines))
        fetch = self.query_one("#fetch", Button)
        fetch.label, fetch.disabled = "Fetch", parcel.size > parcel.free
        (fetch if not fetch.disabled else self.query_one("#leave")).focus()

    def _begin(self) -> None:
        if self._fetching is not None:
            self._begun = True
            self._fetching.begin()
            self._say(f"fetching [b]{plain(self._model)}[/] ...\n\n[$quiet]{KEPT}[/]")
            self.query_one("#fetch", Button).disabled = True
            leave = self.query_one("#leave", Button)
            leave.label = "Stop"
            leave.focus()

    def _show(self, done: int, total: int) -> None:
        """How far it is, how quickly it goes and how long it will take."""
        speed = self._speed.saw(time.monotonic(), done)
        share = done / total if total else 1.0
        cells = round(BAR * share)
        bar = f"[$primary]{'█' * cells}[/][$border-blurred]{'░' * (BAR - cells)}[/] {share:4.0%}"
        left = duration((total - done) / speed) if speed else "?"
        facts = f"{size(done)} of {size(total)}  ·  {size(int(speed))}/s  ·  {left} left"
        progress = self.query_one("#fetch-progress", Static)
        progress.display = True
        progress.update(f"\n{bar}\n[$quiet]{facts}[/]")

    def _failed(self, error: AlignError) -> None:
        if self.is_mounted:
            where = f"\n[$quiet]at {plain(error.where)}[/]" if error.where else ""
            self._again(f"[$error]✘ {plain(error.message)}[/]{where}\n\n{plain(error.hint or '')}")

    def _again(self, text: str) -> None:
        """Say why it is not there, and offer to try again."""
        self._fetching, self._begun = None, False
        self._say(text)
        self.query_one("#leave", Button).label = "Not now"
        fetch = self.query_one("#fetch", Button)
        fetch.label, fetch.disabled = "Try again", False
        self.query_one("#leave").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Do what the button says."""
        event.stop()
        if event.button.id == "leave":
            self.action_leave()
        elif self._fetching is None:
            event.button.disabled = True
            self._look()
        else:
            self._begin()

    def action_leave(self) -> None:
        """Stop what is being fetched; once nothing is, close."""
        if not self._begun or self._stopping:
            self.dismiss(False)
        elif self._fetching is not None:
            self._stopping = True
            self._fetching.hang_up()
            self._say("stopping ...")
