"""What all screens share: where one is, which keys there are, help, vim keys, jump mode, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static, TabbedContent, TabPane
from textual.worker import Worker, WorkerState, get_current_worker

from mlx_align.errors import AlignError
from mlx_align_cli.display.listing import short_name
from mlx_align_cli.display.text import one_line
from mlx_align_tui.keymap import UP_AND_DOWN, ids_of, in_markdown, keyed, said
from mlx_align_tui.plain import plain
from mlx_align_tui.widgets.keyed import Keyed

if TYPE_CHECKING:
    from mlx_align_tui.app import AlignApp

T = TypeVar("T")
LEAST = 12
"""Cells that are left to the name of a run or file, however much is said beside it."""
ROOMY = 100
"""From so many cells on a run's whole name fits beside what else is said."""


class Where(Static):
    """The line at the top: where one is, and at its right what matters most just now."""

    DEFAULT_CSS = "Where { height: 1; dock: top; }"


class AlignScreen(Screen[None]):
    """A screen of this program. A subclass has a title, a help text and a `body`.

    Attributes:
        crumb: what it is called in the line at the top.
        help_text: what ? shows above the keys, as Markdown with ids where keys are named.
        address: its name in `screens.PLACES`, and what it was made with, such as a run.
    """

    crumb: ClassVar[str] = ""
    help_text: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="app.back", show=False),
        Binding("question_mark,f1", "help", "Help", id="app.help", key_display="?"),
        Binding("f,ctrl+j", "jump", "Jump", id="app.jump", show=False),
        Binding("q", "app.quit", "Quit", id="app.quit", show=False),
        *UP_AND_DOWN,
        Binding("h", "app.press('left')", "Left", id="vim.left", show=False),
        Binding("l", "app.press('right')", "Right", id="vim.right", show=False),
        Binding("g", "far('home')", "First", id="vim.first", show=False),
        Binding("G,shift+g", "far('end')", "Last", id="vim.last", show=False),
    ]

    app: AlignApp
    address: tuple[str, tuple[Any, ...]] = ("", ())
    _offered: Mapping[str, tuple[Binding, bool]] | None = None

    def compose(self) -> ComposeResult:
        """The line at the top, the body, and the keys."""
        yield Where(self._where("", ""), id="where")
        yield from self.body()
        yield Footer(show_command_palette=False, compact=True)

    def body(self) -> ComposeResult:
        """The widgets between the top line and the keys."""
        yield from ()

    def say_where(self, detail: str = "", state: str = "") -> None:
        """Fill the line at the top.

        Args:
            detail: which run or file this is about; plain text.
            state: what matters most just now; Textual markup.
        """
        self.query_one(Where).update(self._where(detail, state))

    def fitting(self, name: str) -> str:
        """A run's name for the line at the top: shorter where there is little room."""
        return name if self.size.width >= ROOMY else short_name(name)

    def _where(self, detail: str, state: str) -> str:
        others = cell_len(f" mlx-align › {self.crumb} ›   {Content.from_markup(state).plain} ")
        room = max(LEAST, self.app.size.width - others)
        crumbs = [part for part in (self.crumb, plain(one_line(detail, room))) if part]
        left = " [$quiet]›[/] ".join(["[b $accent]mlx-align[/]", *crumbs])
        return f"{left}  {state}" if state else left

    def on_screen_resume(self) -> None:
        """The keys may have been changed meanwhile."""
        self.call_after_refresh(self.name_keys)

    def name_keys(self) -> None:
        """Have texts and tabs name the keys that are bound now."""
        for text in self.query(Keyed):
            text.again()
        known = {name for kind in type(self).__mro__ for name in ids_of(kind)}
        for tabs in self.query(TabbedContent):
            for pane in tabs.query(TabPane):
                own = next((name for name in known if name.endswith(f".{pane.id}_tab")), None)
                if own is None:
                    continue
                with suppress(NoMatches):  # while the screen comes or goes
                    tab = tabs.get_tab(pane)
                    tab.label = f"{keyed(self, f'<<{own}>>')} {tab.label_text.partition(' ')[2]}"

    @property
    def would_lose(self) -> str:
        """What would be lost if one left now, as a sentence; "" for nothing."""
        return ""

    @property
    def keeps_something(self) -> bool:
        """Whether anything would be lost if another screen took its place, be it worth a question or not."""
        return bool(self.would_lose)

    def refresh_bindings(self) -> None:
        """Draw the line of keys anew if it is another one: it is blank for a moment whenever that is done."""
        if not self.is_mounted:
            return  # the line of keys looks by itself once it is there
        keys = {key: (active.binding, active.enabled) for key, active in self.active_bindings.items()}
        if keys != self._offered:
            self._offered = keys
            super().refresh_bindings()

    def action_back(self) -> None:
        """Leave this screen, unless it is the first."""
        if len(self.app.screen_stack) > 2:
            self.app.pop_screen()

    async def action_far(self, end: str) -> None:
        """Go to the first row or line ("home"), or to the last ("end")."""
        if isinstance(self.focused, DataTable):  # its own keys of these names mean columns
            self.focused.move_cursor(row=0 if end == "home" else self.focused.row_count - 1)
        else:
            await self.app.action_press(end)

    def action_help(self) -> None:
        """Show what this screen is for and its keys."""
        from mlx_align_tui.screens.help import HelpScreen

        text = said(self.help_text, self.app.settings.keys, in_markdown)
        self.app.push_screen(HelpScreen(text, self.keys()))

    def keys(self) -> list[tuple[str, str, str]]:
        """(key, what it does, id) of everything that can be pressed here, once each."""
        found: dict[str, tuple[str, str, str]] = {}
        for active in self.active_bindings.values():
            binding = active.binding
            if binding.description and (binding.id or not binding.system):
                key = self.app.get_key_display(binding)
                found.setdefault(binding.id or binding.action, (key, binding.description, binding.id or ""))
        return list(found.values())

    def action_jump(self) -> None:
        """Put a letter on everything that can be focused."""
        from mlx_align_tui.screens.jump import JumpScreen

        self.app.push_screen(JumpScreen(self), self._land)

    def _land(self, target: str | None) -> None:
        if target is not None:
            self.app.land(self, target)

    def work(self, task: Callable[[], T], then: Callable[[T], None] | None = None, *, group: str) -> None:
        """Do something slow in a thread, and show an error as a message instead of ending the program.

        Args:
            task: what is slow; it touches no widget.
            then: gets what it returned, back where widgets may be touched.
            group: a later task of the same group takes the place of an earlier one.
        """

        def attempt() -> None:
            worker = get_current_worker()
            try:
                result = task()
            except AlignError as error:
                self.app.call_from_thread(self.app.tell, error)
                return
            except OSError as error:
                self.app.call_from_thread(self.app.tell, of_the_system(error))
                return
            if then is not None and not worker.is_cancelled:
                self.app.call_from_thread(then, result)

        self.run_worker(attempt, thread=True, group=group, exclusive=True, exit_on_error=False)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Say what nobody foresaw, instead of waiting for ever for what a thread does no more."""
        error = event.worker.error
        if event.state is WorkerState.ERROR and error is not None and self.is_current:
            what = f"this is a bug in mlx-align: {type(error).__name__}: {error}"
            hint = "Please report it; your runs are not touched."
            self.app.tell(AlignError(what, where=self.crumb, hint=hint))


def of_the_system(error: OSError) -> AlignError:
    """What the system refused, with the file that it was about."""
    where = None if error.filename is None else str(error.filename)
    return AlignError(error.strerror or str(error), where=where)
