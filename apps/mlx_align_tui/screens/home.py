"""The runs: what there is, how it goes, and what can be done to it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import DataTable, Input, Static

from mlx_align.errors import AlignError, UsageError
from mlx_align.runs import RunDirectory
from mlx_align_cli.display.text import ago, metric, plural
from mlx_align_cli.saved import irreplaceable
from mlx_align_tui.keymap import keyed, said
from mlx_align_tui.live.engines import stop
from mlx_align_tui.live.runs import Entry, Index
from mlx_align_tui.plain import plain
from mlx_align_tui.screens import PLACES
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.quit import ConfirmScreen
from mlx_align_tui.widgets.badge import colour
from mlx_align_tui.widgets.empty_runs import EmptyRuns
from mlx_align_tui.widgets.facts import Facts
from mlx_align_tui.widgets.runs_table import RunsTable

if TYPE_CHECKING:
    from mlx_align.settings import Resolved
    from mlx_align_tui.screens.new_run.launching import Launch

POLL_SECONDS = 1.0
RESUMABLE = ("stopped", "failed", "crashed", "new")
HELP = """\
# Runs

Every run that is in this folder, newest first. A run is a folder with its configuration, its log, its
checkpoints and, once it has finished, its adapter. Engines work on runs in processes of their own: you may
leave at any time.

**held out** is what the newest evaluation says, and of a run that has finished the one of the step that it
keeps: *margin* is how much better the chosen answer is liked than
the rejected one, *reward* what completions are worth, *exact* the share of right answers. **course** is that
metric while training.

Mark runs with <<runs.mark>> to compare them. A stopped, failed or crashed run goes on from its last
checkpoint with <<runs.resume>>.
"""
HANGS = "open it: <<monitor.stop>> there asks whether to end it at once"


class HomeScreen(AlignScreen):
    """The table of runs."""

    crumb = "Runs"
    help_text = HELP
    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (140, "-wide")]  # noqa: RUF012  (as Textual declares it)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "go_nowhere('new_run')", "New", id="runs.new"),
        Binding("slash", "filter", "Filter", id="runs.filter", key_display="/"),
        Binding("space", "mark", "Mark", id="runs.mark"),
        Binding("c", "compare", "Compare", id="runs.compare"),
        Binding("r", "resume", "Resume", id="runs.resume"),
        Binding("s", "stop", "Stop", id="runs.stop"),
        Binding("d", "delete", "Delete", id="runs.delete"),
        Binding("a", "go_with_run('chat')", "Chat", id="runs.chat"),
        Binding("e", "go_with_run('export')", "Export", id="runs.export"),
        Binding("D,shift+d", "go_nowhere('doctor')", "Doctor", id="app.doctor", show=False),
    ]

    class Looked(Message):
        """The runs as they are now."""

        def __init__(self, entries: list[Entry]) -> None:
            super().__init__()
            self.entries = entries

    class Blind(Message):
        """The folder that holds the runs cannot be read."""

        def __init__(self, error: OSError) -> None:
            super().__init__()
            self.said = f"the runs cannot be read: {error.strerror or error}"

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self._gone = threading.Event()
        self._now = threading.Event()
        self._seen = threading.Event()
        self._loaded = False
        self._counts = ""
        self._demo: Launch | None = None

    def body(self) -> ComposeResult:
        """The filter, the table, the facts of the run under the cursor, and what is shown without runs."""
        yield Input(
            placeholder=keyed(self, "words that must be in the row; <<app.back>> shows all"), id="filter"
        )
        with Horizontal(id="runs-and-facts"):
            yield RunsTable()
            with Vertical(id="side"):
                yield Facts(id="facts")
        yield Static("looking for runs ...", id="looking", classes="quiet")
        yield EmptyRuns(self.app.root)

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#filter").display = False
        self._arrange()
        self.run_worker(self._look, thread=True, group="index", exit_on_error=False)

    def on_unmount(self) -> None:
        """End looking, and start no demo after that."""
        self._gone.set()
        self._now.set()
        if self._demo is not None:
            self._demo.leave()

    def _look(self) -> None:
        index = Index(self.app.root)
        while not self._gone.is_set():
            self._now.clear()
            if self._seen.is_set():  # what lies below another screen need not be live
                try:
                    self.post_message(self.Looked(index.poll()))
                except OSError as error:
                    self.post_message(self.Blind(error))
            self._now.wait(POLL_SECONDS)

    def on_screen_suspend(self) -> None:
        """Another screen lies over this one."""
        self._seen.clear()

    def on_screen_resume(self) -> None:
        """It is seen again: look at once."""
        self._seen.set()
        self.look_now()

    def look_now(self) -> None:
        """Do not wait for the next look."""
        self._now.set()

    def on_home_screen_looked(self, event: Looked) -> None:
        """Show what was found."""
        self.entries, self._loaded = event.entries, True
        names = {entry.name for entry in self.entries}
        self.app.marked[:] = [name for name in self.app.marked if name in names]
        self._show()

    def on_home_screen_blind(self, event: Blind) -> None:
        """Say so; what was seen last stays, and the next look may find more."""
        self.query_one("#looking", Static).update(plain(event.said))
        self.say_where(state=f"[$error]✘ {plain(event.said)}[/]")

    def _show(self) -> None:
        text = self.query_one("#filter", Input).value
        shown = [entry for entry in self.entries if entry.matches(text)]
        self.query_one(RunsTable).show(shown, self.app.marked)
        self._arrange()
        self._show_facts()
        running = sum(entry.condition == "running" for entry in self.entries)
        words = [plural(len(self.entries), "run")]
        words += [f"[$primary]{running} running[/]"] if running else []
        words += [f"[$accent]{len(self.app.marked)} marked[/]"] if self.app.marked else []
        words += [f"{len(shown)} shown"] if len(shown) != len(self.entries) else []
        self._counts = " · ".join(words)
        self._say()
        self.refresh_bindings()

    def _say(self) -> None:
        """Say at the top how many there are, and which is under the cursor: the table has no names."""
        entry, name = self.query_one(RunsTable).current, ""
        if entry is not None:
            name = f"  {plain(self.fitting(entry.name))}, {plain(ago(time.time() - entry.changed))}"
        self.say_where(state=f"[$quiet]{self._counts}[/]{name}")

    def _arrange(self) -> None:
        empty, table, message = (
            self.query_one(EmptyRuns),
            self.query_one(RunsTable),
            self.query_one("#looking"),
        )
        message.display = not self._loaded
        none = self._loaded and not self.entries
        self.query_one("#runs-and-facts").display = self._loaded and not none
        if none != empty.display or self.focused is None:
            empty.display = none
            if not isinstance(self.focused, Input):
                self.set_focus(empty if none else table)

    def _show_facts(self) -> None:
        entry = self.query_one(RunsTable).current
        if entry is None:
            self.query_one(Facts).update("")
            return
        variables = self.app.theme_variables
        rows: list[tuple[str, str | Text]] = [
            ("run", entry.name),
            ("state", Text(entry.condition, style=colour(entry.condition, variables))),
            ("method", entry.method),
            ("model", entry.model),
            ("data", entry.data),
            ("step", entry.steps_text),
        ]
        if entry.headline:
            rows.append((entry.headline[0], metric(*entry.headline)))
        if entry.changed:
            rows.append(("changed", ago(time.time() - entry.changed)))
        if entry.problem:
            rows.append(("problem", Text(entry.problem, style=variables.get("error", ""))))
        self.query_one(Facts).show(rows)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The facts are those of the run under the cursor."""
        self._show_facts()
        self._say()
        self.refresh_bindings()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open the run."""
        run = self.query_one(RunsTable).run_of(event.row_key.value)
        if run is not None:
            self.app.go("monitor", run)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while one types."""
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Back to the table, which stays filtered."""
        event.input.display = bool(event.value)
        self.query_one(RunsTable).focus()

    def action_filter(self) -> None:
        """Type words that must be in the row."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def action_back(self) -> None:
        """Show all runs again."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        if self.query_one(EmptyRuns).display:
            return
        self.query_one(RunsTable).focus()
        self._show()

    @property
    def current(self) -> Entry | None:
        """The run under the cursor."""
        return self.query_one(RunsTable).current if self.entries else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done to the run under the cursor is offered."""
        if action in ("go_nowhere", "go_with_run") and parameters[0] not in PLACES:
            return False
        if action == "compare":
            return "compare" in PLACES and len(self.app.marked) > 1
        if action not in ("go_with_run", "mark", "delete", "filter", "resume", "stop"):
            return True
        if not self.is_mounted or self.current is None:
            return False
        condition = self.current.condition
        if action == "go_with_run" and condition == "running":
            return parameters[0] == "chat"  # what it has saved can be talked to
        if action == "resume":
            return condition in RESUMABLE
        return condition == "running" if action == "stop" else True

    def action_go_nowhere(self, name: str) -> None:
        """Open a screen that is about no run."""
        self.app.go(name)

    def action_go_with_run(self, name: str) -> None:
        """Open a screen about the run under the cursor."""
        if self.current is not None:
            self.app.go(name, self.current.run)

    def action_compare(self) -> None:
        """Compare the runs that are marked."""
        self.app.go("compare", self.app.marked_runs())

    def action_mark(self) -> None:
        """Mark the run under the cursor to be compared, or take the mark away; then one down."""
        if self.current is None:
            return
        name, marked = self.current.name, self.app.marked
        if name in marked:
            marked.remove(name)
        else:
            marked.append(name)
        self._show()
        self.query_one(RunsTable).action_cursor_down()

    def action_resume(self) -> None:
        """Go on from the last checkpoint."""
        if self.current is not None:
            self.start(self.current.run)

    def start(self, run: RunDirectory) -> None:
        """Start an engine on a run, new or to be resumed, and open it unless one is elsewhere by then."""
        self.notify(f"starting {run.name} ...", markup=False)
        self.work(lambda: self.app.engines.start(run), lambda _: self._started(run), group="start")

    def _started(self, run: RunDirectory) -> None:
        self.look_now()
        if self.is_active:  # not `is_current`, which it is also below a question
            self.app.go("monitor", run)
        else:
            self.notify(f"{run.name} has started; it is on the list of runs", markup=False)

    def action_stop(self) -> None:
        """Ask the engine to save and stop."""
        if self.current is not None:
            run = self.current.run
            self.work(lambda: stop(run), lambda pid: self._stopping(run, again=pid is not None), group="stop")

    def _stopping(self, run: RunDirectory, *, again: bool) -> None:
        told = f"{run.name} saves and stops"
        if again:
            what_to_do = said(HANGS, self.app.settings.keys, str)
            told = f"{run.name} was asked before and has not stopped yet; {what_to_do}"
        self.notify(told, markup=False)

    def action_delete(self) -> None:
        """Delete the run under the cursor, once the question is answered."""
        if self.current is None:
            return
        run = self.current.run
        if self.current.condition == "running":
            self.app.tell(UsageError(f"{run.name} is running", hint=keyed(self, "<<runs.stop>> stops it.")))
            return
        self.work(lambda: irreplaceable(run), lambda found: self._ask_to_delete(run, found), group="delete")

    def _ask_to_delete(self, run: RunDirectory, with_it: str) -> None:
        if not self.is_active:  # one has gone elsewhere while it was counted
            return
        gone = "Its configuration, log, checkpoints and adapter are removed for good"
        gone += f", and with them {with_it}." if with_it else "."
        self.app.push_screen(
            ConfirmScreen("Delete this run?", f"{run.name}\n\n{gone}", "Delete"),
            lambda yes: self._delete(run) if yes else None,
        )

    def _delete(self, run: RunDirectory) -> None:
        self.work(run.remove, lambda _: self.look_now(), group="delete")

    def action_demo(self) -> None:
        """Train the embedded model on the embedded sample."""
        from mlx_align_tui.screens.new_run.launching import Launch

        if self._demo is not None:
            return
        try:
            demo = self._demo = Launch(demo_of(self.app.root), self.app.engines)
        except AlignError as error:
            self.app.tell(error)
            return
        self.notify("preparing the demo ...")

        def start() -> RunDirectory | None:
            try:
                return demo.run()
            finally:
                self.app.call_from_thread(self._demo_over)

        self.work(start, lambda run: self._started(run) if run is not None else None, group="demo")

    def _demo_over(self) -> None:
        """It has been started, has failed, or was left."""
        self._demo = None


def demo_of(root: Path) -> Resolved:
    """The embedded model on the embedded sample.

    Raises:
        ConfigError: a configuration file or variable cannot be used.
    """
    from mlx_align.settings import gather, resolve

    return resolve(gather("orpo", flags={"runs.dir": str(root)}))
