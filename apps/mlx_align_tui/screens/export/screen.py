"""Export: choose targets, see what they will be, have them made and verified."""

from __future__ import annotations

import threading
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.widgets import DataTable, Static, TabbedContent, TabPane

from mlx_align.errors import AlignError, UsageError
from mlx_align.runs import RunDirectory
from mlx_align_tui.live.adapters import Adapter, adapters_of, pick
from mlx_align_tui.live.exporting import Existing, Exporting, existing
from mlx_align_tui.live.targets import KINDS, Weights, here, weigh
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.base import ROOMY, AlignScreen
from mlx_align_tui.screens.export import texts
from mlx_align_tui.screens.export.jobs import Job, name_of
from mlx_align_tui.screens.export.options import (
    EXPLANATIONS,
    STEP,
    arguments_of,
    option_of,
    placeholder_of,
    specs_of,
)
from mlx_align_tui.screens.new_run.form import Field, Form
from mlx_align_tui.screens.quit import ConfirmScreen
from mlx_align_tui.screens.tabs import tab_keys
from mlx_align_tui.widgets.export_card import ExportCard
from mlx_align_tui.widgets.exports_table import ExportsTable
from mlx_align_tui.widgets.keyed import Keyed
from mlx_align_tui.widgets.targets import TargetsTable

TABS = ("choose", "progress", "exports")


class ExportScreen(AlignScreen):
    """Exports a run's adapter.

    Args:
        run: the run.

    Attributes:
        adapters: what the run has saved, as far as is known; the usual one first.
        chosen: the one of them that is exported, as far as is known.
        wanted: the name of the one that a person chose, None for the usual one, whichever that is by then.
    """

    crumb = "Export"
    help_text = texts.HELP
    AUTO_FOCUS = "#targets"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", id="export.mark"),
        Binding("f5", "export", "Export", id="export.go"),
        Binding("c", "cancel", "Cancel", id="export.cancel"),
        Binding("y", "copy", "Copy next", id="export.copy"),
        Binding("v", "verify", "Verify again", id="export.verify"),
        *tab_keys("export", TABS),
    ]

    class Heard(Message):
        """A job has begun, said something, or ended."""

        def __init__(self, job: Job) -> None:
            super().__init__()
            self.job = job

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run_directory = run
        self.values: dict[str, dict[str, str]] = {name: {} for name in KINDS}
        self.marked: list[str] = []
        self.jobs: list[Job] = []
        self._lock, self._at_work = threading.Lock(), False
        self.here: frozenset[str] | None = None
        self.weights: Weights | None = None
        self.adapters: list[Adapter] = []
        self.chosen: Adapter | None = None
        self.wanted: str | None = None

    def body(self) -> ComposeResult:
        """Targets with their options, what is under way, and what is there."""
        with TabbedContent("1 targets", "2 progress", "3 exports", id="tabs"):
            with TabPane("1 targets", id="choose"):
                yield TargetsTable()
                with Horizontal(id="below"):
                    yield Form(id="options")
                    with VerticalScroll(id="about", can_focus=False):
                        yield Static(id="about-text")
            with TabPane("2 progress", id="progress"), VerticalScroll(id="cards", can_focus=True):
                yield Keyed(f"Nothing was exported yet: {texts.BEGIN}", id="no-cards", classes="quiet")
            with TabPane("3 exports", id="exports"):
                yield ExportsTable()
                yield Keyed(f"This run has no exports yet: {texts.BEGIN}", id="no-exports", classes="quiet")

    def on_mount(self) -> None:
        """Look what there is."""
        self._say()
        self.work(lambda: (here(), weigh(self.run_directory)), self._known, group="look")
        self._look()

    def on_screen_resume(self) -> None:
        """A run that trains on has saved and removed checkpoints meanwhile."""
        self._read_steps()

    def on_unmount(self) -> None:
        """What is under way ends."""
        self.action_cancel()

    @property
    def busy(self) -> bool:
        """Whether something is under way or waits."""
        return any(job.state in ("waiting", "running") for job in self.jobs)

    def _say(self) -> None:
        counts = {
            state: sum(job.state == state for job in self.jobs) for state in ("running", "done", "failed")
        }
        words = [f"[$error]{counts['failed']} failed[/]"] if counts["failed"] else []
        words += [plain(self.chosen.title)] if self.chosen and self.size.width >= ROOMY else []
        words += [f"[$accent]{len(self.marked)} marked[/]"] if self.marked else []
        words += ["[$primary]at work[/]"] if self.busy else []
        words += [f"[$success]{counts['done']} done[/]"] if counts["done"] else []
        self.say_where(self.fitting(self.run_directory.name), f"[$quiet]{' · '.join(words)}[/]")
        self.refresh_bindings()

    # Choosing

    def _known(self, found: tuple[frozenset[str], Weights | None]) -> None:
        """Show sizes and what is missing."""
        self.here, self.weights = found
        self._show()
        self._explain_target()

    def _read_steps(self) -> None:
        self.work(lambda: adapters_of(self.run_directory), self._offer_steps, group="steps")

    def _offer_steps(self, adapters: list[Adapter]) -> None:
        """Let the person choose which step is exported; a choice holds as long as it is there."""
        before, usual = (self.adapters, self.chosen), pick(adapters, None)
        self.adapters = [usual, *(each for each in adapters if each is not usual)]
        try:
            self.chosen = pick(adapters, self.wanted)
        except UsageError as error:
            self.app.tell(error)
            self.chosen, self.wanted = usual, None
        if (self.adapters, self.chosen) != before:
            self.call_later(self._fill)
        self._say()

    def _show(self) -> None:
        self.query_one(TargetsTable).show(self.here, self.weights, self.values, self.marked)
        self._say()

    @property
    def target(self) -> str:
        """The target under the cursor."""
        return self.query_one(TargetsTable).current

    async def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the options of the target under the cursor."""
        if isinstance(event.data_table, TargetsTable):
            await self._fill()
            self._explain_target()
        self.refresh_bindings()

    async def _fill(self) -> None:
        name = self.target
        values = self.values[name]
        specs = specs_of(name, values, [each.brief for each in self.adapters])
        firsts = {spec.key: spec.choices[0] if spec.choices else placeholder_of(spec) for spec in specs}
        chosen = {**values, STEP: self.chosen.brief} if self.chosen else values
        typed = {spec.key: chosen[option] for spec in specs if (option := option_of(spec)) in chosen}
        await self.query_one("#options", Form).fill(specs, firsts, typed)

    def _explain_target(self) -> None:
        self._explain(texts.about(self.target, self.values[self.target], self.here))

    def _explain(self, text: str) -> None:
        self.query_one("#about-text", Static).update(text)
        self.query_one("#about").scroll_home(animate=False)

    def on_form_reached(self, event: Form.Reached) -> None:
        """Say what the option under the cursor means."""
        self._explain(f"[b $accent]{event.spec.label}[/]\n{EXPLANATIONS[option_of(event.spec)]}")

    async def on_field_edited(self, event: Field.Edited) -> None:
        """Take what was chosen; another format has other options."""
        option = option_of(event.spec)
        if option == STEP:
            for each in self.adapters:
                if each.brief == event.text:
                    self.chosen, self.wanted = each, None if each.usual else each.name
            self._say()
            return
        values = self.values[self.target]
        if event.text:
            values[option] = event.text
        else:
            values.pop(option, None)
        if option == "format":
            await self._fill()
        self._show()

    def action_options(self) -> None:
        """Go to the options of the target under the cursor."""
        self.query("#options Input, #options Choice").first().focus()

    def action_mark(self) -> None:
        """Mark the target under the cursor, or take the mark away; then one down."""
        table = self.query_one(TargetsTable)
        if table.current in self.marked:
            self.marked.remove(table.current)
        else:
            self.marked.append(table.current)
        table.action_cursor_down()
        self._show()

    # Doing

    def action_export(self) -> None:
        """Export the marked targets, or the one under the cursor."""
        names = sorted(self.marked, key=list(KINDS).index) or [self.target]
        run = str(self.run_directory.path.absolute())
        what: list[str] = []
        titles = {name: name for name in names}
        if self.chosen is not None and self.wanted is not None:
            what = [f"--checkpoint={self.wanted}"]
            titles = {name: f"{name}, {self.chosen.title}" for name in names}
        self._begin(
            {
                titles[name]: ["export", run, *arguments_of(name, self.values[name]), *what, "--json"]
                for name in names
            }
        )
        self.marked.clear()
        self._show()

    def action_verify(self) -> None:
        """Verify the export under the cursor again."""
        found = self.query_one(ExportsTable).current
        if found is not None:
            self._begin({name_of(found.path): ["verify", str(found.path.absolute()), "--json"]})

    def _begin(self, named: dict[str, list[str]]) -> None:
        """Have these done after what is under way: title -> arguments of `mlx-align`."""
        folder = self.run_directory.path / "exports"
        jobs = [Job(title, Exporting(arguments, folder)) for title, arguments in named.items()]
        with self._lock:
            self.jobs.extend(jobs)
            is_at_work, self._at_work = self._at_work, True
        self.query_one("#no-cards").display = False
        cards = self.query_one("#cards", VerticalScroll)
        cards.mount_all(ExportCard(job) for job in jobs)
        self.action_tab("progress")
        if not is_at_work:
            self.run_worker(self._do, thread=True, group="export", exit_on_error=False)
        self._say()

    def _do(self) -> None:
        """Do what waits, one after the other; on a worker thread."""
        while (job := self._next()) is not None:
            self.post_message(self.Heard(job))

            def told(message: dict[str, object], job: Job = job) -> None:
                job.hear(message)
                self.post_message(self.Heard(job))

            problem: AlignError | None = None
            try:
                job.program.run(told)
            except AlignError as error:
                problem = error
            except (OSError, ValueError) as error:
                problem = AlignError(f"it could not be run: {error}")
            job.end(problem)
            self.post_message(self.Heard(job))

    def _next(self) -> Job | None:
        """The job whose turn it is; without one the worker ends, and what comes then begins another."""
        with self._lock:
            job = next((job for job in self.jobs if job.state == "waiting"), None)
            if job is None:
                self._at_work = False
            else:
                job.state = "running"
            return job

    def on_export_screen_heard(self, event: Heard) -> None:
        """Show how far a job is."""
        for card in self.query(ExportCard):
            if card.job is event.job:
                card.show()
                self.call_after_refresh(card.scroll_visible, animate=False)
        if event.job.state not in ("waiting", "running"):
            self._look()
        if event.job.state == "failed":  # its checkpoint may be gone
            self._read_steps()
        self._say()

    def _look(self) -> None:
        self.work(lambda: existing(self.run_directory), self._found, group="existing")

    def _found(self, exports: list[Existing]) -> None:
        self.query_one("#no-exports").display = not exports
        self.query_one(ExportsTable).show(exports)
        tab = self.query_one("#tabs", TabbedContent).get_tab("exports")
        tab.label = f"3 exports ({len(exports)})" if exports else "3 exports"
        self.name_keys()

    def action_cancel(self) -> None:
        """Cancel what is under way and what waits; what is begun from now on is not meant."""
        for job in self.jobs:
            if job.state in ("waiting", "running"):
                job.program.cancel()

    def action_copy(self) -> None:
        """Put a next command into the clipboard: of the card that has the focus, else of the newest."""
        command = self._command()
        if command:
            self.app.copy_to_clipboard(command)
            self.notify(f"copied, if your terminal allows that: {command}", markup=False)

    def _command(self) -> str:
        focused = self.focused
        if isinstance(focused, ExportCard):
            return focused.job.next_command
        return next((job.next_command for job in reversed(self.jobs) if job.next_command), "")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done now is offered."""
        if not self.is_mounted or not self.query("#tabs"):
            return True
        tab = self.query_one("#tabs", TabbedContent).active
        if action in ("mark", "export"):
            return tab == "choose"
        if action == "verify":
            return tab == "exports" and self.query_one(ExportsTable).current is not None
        return self.busy if action == "cancel" else bool(self._command()) if action == "copy" else True

    def action_tab(self, name: str) -> None:
        """Look at another tab."""
        self.query_one("#tabs", TabbedContent).active = name
        self.query_one({"choose": "#targets", "progress": "#cards", "exports": "#made"}[name]).focus()

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Offer what can be done there."""
        self.refresh_bindings()

    @property
    def would_lose(self) -> str:
        """An export that is under way."""
        text = "An export is under way. If you leave it is cancelled, and nothing is left of it."
        return text if self.busy else ""

    @property
    def keeps_something(self) -> bool:
        """An export that is under way, and what was marked or chosen for the next one."""
        chosen = bool(self.marked) or any(self.values.values()) or self.wanted is not None
        return super().keeps_something or chosen

    def action_back(self) -> None:
        """From the options to the targets, else leave; what is under way is asked about."""
        if self.focused is not None and self.focused in self.query("#options *"):
            self.query_one(TargetsTable).focus()
        elif self.would_lose:
            leave = super().action_back
            question = ConfirmScreen("Leave?", self.would_lose, "Leave")
            self.app.push_screen(question, lambda yes: leave() if yes else None)
        else:
            super().action_back()
