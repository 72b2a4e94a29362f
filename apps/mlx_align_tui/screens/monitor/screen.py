"""One run, live: curves, samples, log, configuration and alerts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from rich.console import RenderableType
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.theme import Theme
from textual.widgets import Log, Static, TabbedContent, TabPane

from mlx_align.runs import RunDirectory
from mlx_align.settings import flatten
from mlx_align_cli.display.text import clean
from mlx_align_tui.keymap import keyed
from mlx_align_tui.live import engines
from mlx_align_tui.live.watching import Look, Newest, watch
from mlx_align_tui.screens import PLACES
from mlx_align_tui.screens.monitor import texts
from mlx_align_tui.screens.monitor.plots import lines_of, plots_of
from mlx_align_tui.screens.quit import ConfirmScreen
from mlx_align_tui.screens.tabs import tab_keys
from mlx_align_tui.screens.viewing import ViewingScreen
from mlx_align_tui.widgets.curve_grid import CurveGrid

WIDE, TALL = 140, 34
"""From so many cells on there is room for three plots side by side, and for the extra ones."""
LOG_LINES = 5_000
HELP = """\
# Monitor

**loss** falls while the model learns; where the held-out one (valid) rises again, it learns the rows by
heart. **rewards** say for DPO how much likelier an answer has become than it was, for ORPO and SimPO how
likely its average token is (below 0; nearer to 0 is likelier): chosen should rise above rejected. **margin**
is the distance between them, **accuracy** how often it is on the right side.

For GRPO, **reward** is what answers are worth, **length** their tokens, **KL** how far the model has moved
from its start, **entropy** how undecided it still is: near zero it always says the same.

The line below the state says what looks odd and what helps. In the curves: <<curves.left>> and
<<curves.right>> move a cursor that tells values, <<curves.zoom>> and <<curves.zoom_out>> zoom,
<<curves.smoother>> and <<curves.rougher>> smooth, <<curves.log>> is a logarithmic scale, <<curves.axis>>
time instead of steps, <<monitor.freeze>> holds still, <<monitor.alone>> gives a plot all the room, drag
opens a range, <<app.back>> lets go of it all. <<monitor.curves_tab>> to <<monitor.alerts_tab>> change the
tab.

<<monitor.stop>> has the engine save a checkpoint and stop. One that does not answer is ended by
<<monitor.stop>> again, once you have said yes; <<monitor.resume>> goes on from the last checkpoint.
"""


class MonitorScreen(ViewingScreen):
    """Watches one run.

    Args:
        run: the run.
    """

    crumb = "Monitor"
    help_text = HELP
    tabs = ("curves", "samples", "log", "config", "alerts")
    of_curves = (*ViewingScreen.of_curves, "freeze", "alone")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "alone", "One plot", id="monitor.alone", show=False),
        Binding("space", "freeze", "Hold", id="monitor.freeze"),
        Binding("s", "stop", "Stop", id="monitor.stop"),
        Binding("c", "checkpoint", "Save", id="monitor.checkpoint"),
        Binding("r", "resume", "Resume", id="monitor.resume"),
        Binding("a", "go_with_run('chat')", "Chat", id="monitor.chat"),
        Binding("e", "go_with_run('export')", "Export", id="monitor.export"),
        *tab_keys("monitor", tabs),
    ]

    class Looked(Message):
        """There is a new look at the run."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run_directory = run
        self.latest: Look | None = None
        self.frozen: Look | None = None
        self.rows: list[tuple[str, object, str]] = []
        self._newest = Newest()
        self._shown: dict[str, tuple[Any, ...]] = {}

    def body(self) -> ComposeResult:
        """State, health, and the tabs."""
        yield Static(id="status")
        yield Static("reading the log ...", id="health")
        with TabbedContent(initial=self.last_tab, id="tabs"):
            with TabPane("1 curves", id="curves"):
                yield CurveGrid(id="grid")
            with TabPane("2 samples", id="samples"), VerticalScroll(can_focus=True):
                yield Static(id="samples-text", classes="page")
            with TabPane("3 log", id="log"):
                yield Static("The engine has written nothing: that is usual.", id="log-empty", classes="page")
                yield Log(id="log-text", max_lines=LOG_LINES)
            with TabPane("4 config", id="config"), VerticalScroll(can_focus=True):
                yield Static(id="needs-text", classes="page")
                yield Static(id="config-text", classes="page")
            with TabPane("5 alerts", id="alerts"), VerticalScroll(can_focus=True):
                yield Static(id="alerts-text", classes="page")

    def on_mount(self) -> None:
        """Begin to watch."""
        self.begin(self._watch)
        self.app.theme_changed_signal.subscribe(self, self._dressed)

    def _watch(self) -> None:
        run, ours = self.run_directory, self.app.engines
        watch(run, self.take, self.gone.wait, exit_code=lambda: ours.exit_code(run))

    def take(self, look: Look) -> None:
        """Show a look as soon as there is time, and then the newest only. It may be called in any thread."""
        if self._newest.put(look):
            self.post_message(self.Looked())

    async def on_monitor_screen_looked(self, event: Looked) -> None:
        """Show what is new."""
        look = self._newest.take()
        if look is None:
            return
        self.latest = look
        if look.log:
            self.query_one(Log).write(clean(look.log))
            self.query_one("#log-empty").display = False
        await self.show()
        self.refresh_bindings()

    def name_keys(self) -> None:
        """Have texts that are written here name them too."""
        super().name_keys()
        self.call_later(self.show)

    async def _dressed(self, theme: Theme) -> None:
        """Colours in texts are not a stylesheet's: write them again."""
        await self.show()

    async def show(self) -> None:
        """Show the newest look, or in the curves the one that was frozen."""
        look = self.latest
        if look is None or not self.is_mounted:
            return
        variables, keys, state = self.app.theme_variables, self.app.settings.keys, look.state
        self.query_one("#status", Static).update(texts.status(look, variables, max(20, self.size.width - 2)))
        health = self.query_one("#health", Static)
        health.update(texts.health(look, variables, keys))
        health.set_class(texts.ending(look) is not None, "-over")
        self.say_view()
        match self.query_one(TabbedContent).active:
            case "curves":
                await self._show_curves(self.frozen or look)
            case "samples":
                of = (*state.samples.since(0)[:1], state.samples.last(), state.rollouts.last())
                self._fill("samples", of, lambda: texts.samples(state, variables))
            case "config":
                needs = (state.plan, state.memory, state.rollouts.last(), look.pace.tokens_per_second)
                self._fill("needs", needs, lambda: texts.needs(look, variables))
                if self.rows:
                    self._fill("config", tuple(self.rows), lambda: texts.config(self.rows, variables))
            case "alerts":
                told = (len(state.alerts), state.alerts.last(), look.findings, texts.ending(look))
                self._fill("alerts", (*told, *keys.items()), lambda: texts.alerts(look, variables, keys))

    def _fill(self, name: str, of: tuple[Any, ...], text: Callable[[], RenderableType]) -> None:
        """Write a tab's text unless it stands there: a long one takes long to lay out.

        Args:
            name: the tab's, or that of a part.
            of: all that the text depends on, besides the theme.
            text: makes it.
        """
        of = (self.app.theme, *of)
        if self._shown.get(name) != of:
            self._shown[name] = of
            self.query_one(f"#{name}-text", Static).update(text())

    async def _show_curves(self, look: Look) -> None:
        grid = self.query_one(CurveGrid)
        roomy = self.size.width >= WIDE and self.size.height >= TALL
        wanted = [plot for plot in plots_of(self._method(look)) if roomy or not plot.extra]
        lines = {plot.name: lines_of(plot, look.curves) for plot in wanted}
        shown = [plot for plot in wanted if lines[plot.name] or not look.curves]
        across = 3 if self.size.width >= WIDE and len(shown) > 4 else 2
        await grid.have({plot.name: plot.title for plot in shown}, across)
        grid.show(lines)

    def _method(self, look: Look) -> str:
        return look.state.started.method if look.state.started else ""

    @property
    def subject(self) -> str:
        """The run."""
        return self.fitting(self.run_directory.name)

    @property
    def standing(self) -> list[str]:
        """Whether the curves are held."""
        return ["[$accent]held[/]"] if self.frozen else []

    async def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Read the configuration when it is looked at."""
        if event.pane.id == "config":
            self.work(self._settings, self._show_config, group="config")

    def _settings(self) -> list[tuple[str, object, str]]:
        origins = self.run_directory.env().get("origins", {})
        values = flatten(self.run_directory.config().model_dump(mode="json"))
        return [(key, value, origins.get(key, "default")) for key, value in values.items()]

    def _show_config(self, rows: list[tuple[str, object, str]]) -> None:
        self.rows = rows
        self.call_later(self.show)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What cannot be done to this run now is not offered."""
        if action == "go_with_run" and parameters[0] not in PLACES:
            return False
        if not self.is_mounted:
            return True
        condition = self.latest.condition if self.latest else ""
        if action in ("stop", "checkpoint"):
            return condition in ("running", "unreadable")
        if action == "go_with_run" and condition == "running":
            return parameters[0] == "chat"  # what it has saved can be talked to
        if action == "resume":
            return condition in ("stopped", "failed", "crashed", "new")
        return super().check_action(action, parameters)

    def action_alone(self) -> None:
        """Give one plot all the room, or back."""
        self.query_one(CurveGrid).toggle_alone()

    async def action_freeze(self) -> None:
        """Hold the curves still, or let them go on."""
        self.frozen = None if self.frozen else self.latest
        await self.show()

    def action_stop(self) -> None:
        """Ask the engine to save and stop; if it was asked before, whether to end it."""
        run = self.run_directory
        self.work(lambda: engines.stop(run), self._asked_to_stop, group="stop")

    def _asked_to_stop(self, before: int | None) -> None:
        if before is None:
            said = "it saves a checkpoint and stops; <<monitor.stop>> again asks whether to end it at once"
            self.notify(keyed(self, said), markup=False)
        elif self.is_active and self.latest is not None:  # not `is_current`: another question may lie over it
            saved = self.latest.state.checkpoints.last()
            left = "It has saved no checkpoint: all is lost then."
            if saved is not None:
                left = f"Its last checkpoint stays, that of step {saved.step:,}; what came after it is lost."
            text = f"It was asked to save and stop, and has not done so yet.\n\n{left}"
            self.app.push_screen(
                ConfirmScreen("End it at once?", text, "End it"),
                lambda yes: self._kill(before) if yes else None,
            )

    def _kill(self, pid: int) -> None:
        run = self.run_directory
        self.work(lambda: engines.kill(run, pid), self._killed, group="stop")

    def _killed(self, _: None) -> None:
        self.notify("killed; it ends as soon as the system lets it")

    def action_checkpoint(self) -> None:
        """Ask the engine to save and go on."""
        run = self.run_directory
        self.work(
            lambda: engines.checkpoint(run), lambda _: self.notify("it saves a checkpoint"), group="stop"
        )

    def action_resume(self) -> None:
        """Go on from the last checkpoint."""
        run = self.run_directory
        self.work(lambda: self.app.engines.start(run), lambda _: self.notify("it goes on"), group="start")

    def action_go_with_run(self, name: str) -> None:
        """Open another screen about this run."""
        self.app.go(name, self.run_directory)
