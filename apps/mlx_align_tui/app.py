"""The application: where one can go, themes, keys, the command palette, and leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.filter import LineFilter
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Tab, Tabs

from mlx_align.errors import AlignError
from mlx_align.runs import STOP, RunDirectory
from mlx_align_cli.display.text import one_line
from mlx_align_tui import settings as remembered
from mlx_align_tui.leaving import Threads, heed_signals
from mlx_align_tui.live.engines import Engines, Launcher, launch
from mlx_align_tui.palette import RunsProvider
from mlx_align_tui.picture import self_contained
from mlx_align_tui.plain import Harmless
from mlx_align_tui.screens import PLACES, jump, make
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.quit import ConfirmScreen, Leaving, QuitScreen
from mlx_align_tui.settings import Keeper, TuiSettings
from mlx_align_tui.themes import PLAIN, THEMES, TITLES

TOLD = 240
"""Cells of each part of an error that are shown: all of it fits on a screen of 80x24."""
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
        unsaved: once it was left: why not all settings could be saved.
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
        self._harmless = Harmless()
        self.unsaved: AlignError | None = None
        self._keeper: Keeper | None = None
        self._problem: AlignError | None = None
        self.settings = self._load() if settings is None else settings
        for theme in THEMES.values():
            self.register_theme(theme)
        self.theme = PLAIN.name if self.no_color else self._known(self.settings.theme)
        self.set_keymap(self.settings.keys)

    def _load(self) -> TuiSettings:
        try:
            settings = remembered.load()
        except AlignError as error:
            self._problem = error  # without a keeper: a file that could not be read is not overwritten
            return TuiSettings()
        self._keeper = Keeper(settings, lambda error: self.call_later(self.tell, error))
        return settings

    def _known(self, theme: str) -> str:
        return theme if theme in THEMES else TuiSettings().theme

    def on_mount(self) -> None:
        """Begin with the runs."""
        heed_signals(self)
        asyncio.get_running_loop().set_default_executor(Threads())
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
        """Have the settings written as they are now."""
        if self._keeper is not None:
            self._keeper.keep(self.settings)

    async def action_press(self, key: str) -> None:
        """Do at once what another key does here. (A simulated key would come after those pressed since.)"""
        active = self.screen.active_bindings.get(key)
        loops = active is not None and active.binding.action.startswith(("app.press", "far"))
        if active is not None and active.enabled and not loops:
            await self.run_action(active.binding.action, default_namespace=active.node)

    def tell(self, error: AlignError) -> None:
        """Show what happened, where, and what to do next, in place of what was told before."""
        lines = [error.message, *([f"at {error.where}"] if error.where else []), error.hint or ""]
        text = "\n".join(one_line(line, TOLD) for line in lines if line)
        self.clear_notifications()
        self.notify(text, title="That did not work", severity="error", timeout=10, markup=False)

    def go(self, name: str, *arguments: Any, over: bool = False) -> None:
        """Go to a screen, by its name in `screens.PLACES` and by what it is about; nothing means any.

        Each place is open once: one goes back to it, and if it is about something else, such as another run,
        the new screen takes its place. What is open reads on and keeps what it has read. Only where a screen
        `keeps_something` that would be lost that way the new screen lies over all others, and where `over`
        says so, because it gives something back to the screen that asks.
        """
        stack, is_there = self.screen_stack, False
        depth = len(stack)
        for at, screen in enumerate(stack):
            if isinstance(screen, AlignScreen) and screen.address[0] == name:
                is_there = not arguments or screen.address[1] == arguments
                depth = at + is_there
        if over or any(isinstance(each, AlignScreen) and each.keeps_something for each in stack[depth:]):
            depth, is_there = len(stack), False
        while len(self.screen_stack) > depth:
            self.pop_screen()
        if not is_there:
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

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What each line goes through before it is drawn."""
        return [*super().get_line_filters(), self._harmless]

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        """The screen as an SVG picture that can be looked at without a network."""
        return self_contained(super().export_screenshot(title=title, simplify=simplify))

    async def action_quit(self) -> None:
        """Leave, and ask first about what would be lost, and about engines that were started here."""
        if isinstance(self.screen, CommandPalette):
            self.pop_screen()
        if isinstance(self.screen, QuitScreen | ConfirmScreen):
            return
        lost = losses(self.screen_stack)
        lost += ["A run is being prepared; it would not be started."] if self.engines.prepares else []
        if text := "\n".join(lost):
            self.push_screen(
                ConfirmScreen("Leave?", text, "Leave"), lambda yes: self._ask_about_engines() if yes else None
            )
        else:
            self._ask_about_engines()

    def _ask_about_engines(self) -> None:
        if names := [run.name for run in self.engines.running()]:
            self.push_screen(QuitScreen(names), self._leave)
        else:
            self.exit()

    def _leave(self, answer: Leaving | None) -> None:
        if answer == "detach":
            self.exit()
        elif answer == "stop":
            self.run_worker(self._stop_all, thread=True, group="leaving", exit_on_error=False)

    def _stop_all(self) -> None:
        """Have all engines save and stop, then leave; if one cannot be asked, stay and say so."""
        failed = False
        for run in self.engines.running():
            try:
                run.control.request(STOP)
            except OSError as error:
                failed = True
                problem = AlignError(f"{run.name} cannot be asked to stop: {error.strerror or error}")
                self.call_from_thread(self.tell, problem)
        if not failed:
            self.call_from_thread(self.exit)

    def on_unmount(self) -> None:
        """Start nothing more, and have all settings written."""
        self.engines.close()
        if self._keeper is not None:
            self.unsaved = self._keeper.close(self.settings)


def losses(screens: Sequence[Screen[Any]]) -> list[str]:
    """What would be lost if these screens were left, as sentences."""
    return [screen.would_lose for screen in screens if isinstance(screen, AlignScreen) and screen.would_lose]
