"""The application: where one can go, themes, keys, the command palette, and leaving."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from rich.markup import escape
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Tab, Tabs

from mlx_align.errors import AlignError
from mlx_align.runs import RunDirectory
from mlx_align_tui import settings as remembered
from mlx_align_tui.live.engines import Engines, Launcher, launch, stop
from mlx_align_tui.palette import RunsProvider
from mlx_align_tui.screens import PLACES, jump, make
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.quit import Leaving, QuitScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.themes import PLAIN, THEMES, TITLES

NOT_TITLED = ("home",)
"""Screens that are not opened again from the palette: they are what is left when all others are closed."""


class AlignApp(App[None]):
    """The terminal UI.

    Args:
        root: the folder that holds the runs; it need not exist.
        settings: what is remembered; None reads and writes the user's file.
        launcher: starts an engine on a run.

    Attributes:
        marked: names of the runs that are marked to be compared, in the order of marking.
        engines: those that were started here.
    """

    TITLE = "mlx-align"
    CSS_PATH = [  # noqa: RUF012  (as Textual declares it)
        "styles/base.tcss",
        "styles/home.tcss",
        "styles/monitor.tcss",
        "styles/new_run.tcss",
        "styles/data.tcss",
        "styles/chat.tcss",
        "styles/export.tcss",
        "styles/compare.tcss",
        "styles/doctor.tcss",
    ]
    COMMANDS = App.COMMANDS | {RunsProvider}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", id="app.quit_anywhere", show=False, priority=True),
        Binding("ctrl+p", "command_palette", "Palette", id="app.palette", show=False),
    ]

    def __init__(
        self, root: Path, *, settings: TuiSettings | None = None, launcher: Launcher = launch
    ) -> None:
        super().__init__()
        self.root = root
        self.marked: list[str] = []
        self.engines = Engines(launcher)
        self._writes = settings is None
        self._problem: AlignError | None = None
        self.settings = self._load() if settings is None else settings
        for theme in THEMES.values():
            self.register_theme(theme)
        self.theme = PLAIN.name if self.no_color else self._known(self.settings.theme)
        self.set_keymap(self.settings.keys)

    def _load(self) -> TuiSettings:
        try:
            return remembered.load()
        except AlignError as error:
            self._problem = error
            self._writes = False  # a file that could not be read is not overwritten
            return TuiSettings()

    def _known(self, theme: str) -> str:
        return theme if theme in self.available_themes else TuiSettings().theme

    def on_mount(self) -> None:
        """Begin with the runs."""
        self.theme_changed_signal.subscribe(self, lambda theme: self.remember(theme=theme.name))
        self.push_screen(make("home"))
        if self._problem is not None:
            self.tell(self._problem)

    def remember(self, **changes: Any) -> None:
        """Change settings and save them; a disk that is full is told, and ends nothing."""
        if all(getattr(self.settings, key) == value for key, value in changes.items()):
            return
        for key, value in changes.items():
            setattr(self.settings, key, value)
        self.save_settings()

    def save_settings(self) -> None:
        """Write the settings as they are now."""
        if not self._writes:
            return
        try:
            remembered.save(self.settings)
        except AlignError as error:
            self.tell(error)

    def tell(self, error: AlignError) -> None:
        """Show what happened, where, and what to do next."""
        lines = [error.message, *([f"at {error.where}"] if error.where else []), error.hint or ""]
        text = "\n".join(escape(line) for line in lines if line)
        self.notify(text, title="That did not work", severity="error", timeout=10)

    def go(self, name: str, *arguments: Any) -> None:
        """Open a screen by its name in `screens.PLACES`."""
        self.push_screen(make(name, *arguments))

    def land(self, screen: AlignScreen, letter: str) -> None:
        """Go where jump mode's letter is."""
        widget: Widget | None = jump.targets(screen).get(letter)
        if isinstance(widget, Tab):
            next(tabs for tabs in widget.ancestors if isinstance(tabs, Tabs)).active = str(widget.id)
        elif widget is not None:
            widget.focus()

    def marked_runs(self) -> list[RunDirectory]:
        """The runs that are marked, those that are still there."""
        runs = [RunDirectory(self.root / name) for name in self.marked]
        return [run for run in runs if run.path.is_dir()]

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """What the command palette offers besides the runs."""
        for name, place in PLACES.items():
            if place.needs == "nothing" and name not in NOT_TITLED:
                yield SystemCommand(place.title, place.about, lambda name=name: self.go(name))
        if isinstance(screen, AlignScreen):
            yield SystemCommand("Help", "What this screen is for, and its keys", screen.action_help)
        for name, title in TITLES.items():
            yield SystemCommand(f"Theme: {title}", "Change the colours", lambda name=name: self._dress(name))
        yield SystemCommand("Screenshot", "Save this screen as an SVG picture", self._photograph)
        yield SystemCommand("Quit", "Leave; engines that run are asked about", self.action_quit)

    def _dress(self, theme: str) -> None:
        self.theme = theme

    def _photograph(self) -> None:
        self.set_timer(0.1, self.deliver_screenshot)  # once the palette is gone

    async def action_quit(self) -> None:
        """Leave, and ask first if engines that were started here are still at work."""
        if isinstance(self.screen, CommandPalette):
            self.pop_screen()
        running = self.engines.running()
        if not running:
            self.exit()
        elif not isinstance(self.screen, QuitScreen):
            self.push_screen(QuitScreen([run.name for run in running]), self._leave)

    def _leave(self, answer: Leaving | None) -> None:
        if answer == "stop":
            for run in self.engines.running():
                try:
                    stop(run)
                except AlignError:  # it has ended meanwhile
                    continue
        if answer in ("stop", "detach"):
            self.exit()
