"""What all screens share: where one is, which keys there are, help, vim keys, jump mode, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from rich.markup import escape
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static
from textual.worker import get_current_worker

from mlx_align.errors import AlignError

if TYPE_CHECKING:
    from mlx_align_tui.app import AlignApp

T = TypeVar("T")


class Where(Static):
    """The line at the top: where one is, and at its right what matters most just now."""

    DEFAULT_CSS = "Where { height: 1; dock: top; }"


class AlignScreen(Screen[None]):
    """A screen of this program. A subclass has a title, a help text and a `body`.

    Attributes:
        crumb: what it is called in the line at the top.
        help_text: what ? shows above the keys, as Markdown.
    """

    crumb: ClassVar[str] = ""
    help_text: ClassVar[str] = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="app.back", show=False),
        Binding("question_mark,f1", "help", "Help", id="app.help", key_display="?"),
        Binding("f,ctrl+j", "jump", "Jump", id="app.jump", show=False),
        Binding("q", "app.quit", "Quit", id="app.quit", show=False),
        Binding("j", "app.simulate_key('down')", "Down", id="vim.down", show=False),
        Binding("k", "app.simulate_key('up')", "Up", id="vim.up", show=False),
        Binding("h", "app.simulate_key('left')", "Left", id="vim.left", show=False),
        Binding("l", "app.simulate_key('right')", "Right", id="vim.right", show=False),
        Binding("g", "far('home')", "First", id="vim.first", show=False),
        Binding("G,shift+g", "far('end')", "Last", id="vim.last", show=False),
    ]

    app: AlignApp

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

    def _where(self, detail: str, state: str) -> str:
        crumbs = [part for part in (self.crumb, escape(detail)) if part]
        left = " [$quiet]›[/] ".join(["[b $accent]mlx-align[/]", *crumbs])
        return f"{left}  {state}" if state else left

    def action_back(self) -> None:
        """Leave this screen, unless it is the first."""
        if len(self.app.screen_stack) > 2:
            self.app.pop_screen()

    def action_far(self, end: str) -> None:
        """Go to the first row or line ("home"), or to the last ("end")."""
        if isinstance(self.focused, DataTable):  # its own keys of these names mean columns
            self.focused.move_cursor(row=0 if end == "home" else self.focused.row_count - 1)
        else:
            self.app.simulate_key(end)

    def action_help(self) -> None:
        """Show what this screen is for and its keys."""
        from mlx_align_tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(self.help_text, self.keys()))

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
                self.app.call_from_thread(self.app.tell, AlignError(f"{error.strerror or error}"))
                return
            if then is not None and not worker.is_cancelled:
                self.app.call_from_thread(then, result)

        self.run_worker(attempt, thread=True, group=group, exclusive=True, exit_on_error=False)
