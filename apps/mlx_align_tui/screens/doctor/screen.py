"""What this machine has, what of this program can be changed (colours, keys), where it keeps things."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, OptionList, Static, TabbedContent, TabPane
from textual.widgets.option_list import Option

from mlx_align_cli.display.text import UNKNOWN, clean, one_line, plural, size
from mlx_align_cli.opening import open_here
from mlx_align_tui.keymap import Key, all_keys, shown
from mlx_align_tui.live.environment import Examination, Finding
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.doctor.keys import in_the_way
from mlx_align_tui.screens.doctor.places import Place, bytes_in, places
from mlx_align_tui.screens.doctor.rebinding import RebindScreen
from mlx_align_tui.themes import TITLES

TABS = ("environment", "themes", "keys", "paths")
MARKS = {"ok": ("✔", "success"), "note": ("!", "warning"), "missing": ("✘", "error")}
SWATCH = """\
[b]How it looks[/]

[$primary]▶ running[/]   [$success]✔ finished[/]   [$warning]■ stopped[/]   [$error]✘ failed[/]

[$curve-1]━━ train[/]  [$curve-2]━━ valid[/]  [$curve-3]━━ chosen[/]
[$curve-6]━━ rejected[/]  [$curve-4]━━ entropy[/]  [$curve-5]━━ tokens/s[/]

[$block-cursor-foreground on $block-cursor-background] the row under the cursor [/]
[$quiet]what matters less[/]   [$accent]what can be pressed[/]

What you see is kept."""
HELP = """\
# Doctor and settings

**environment** is what `mlx-align doctor` finds on this machine, and what to do about what is missing;
<<doctor.again>> looks again. **themes**: the colours change as you move, and stay so. **keys**: enter gives
something another key, <<doctor.reset>> gives it its own back; a key that means something else there is
refused. **paths**: where things are kept and how large they are; enter opens a folder.

Colours and keys are kept in `tui.toml` beside your configuration. With NO_COLOR set there are no colours.
"""


class DoctorScreen(AlignScreen):
    """The environment, the themes, the key map and the paths."""

    crumb = "Doctor & settings"
    help_text = HELP
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(n), f"tab('{name}')", name.capitalize(), id=f"doctor.{name}_tab")
            for n, name in enumerate(TABS, 1)
        ),
        Binding("r", "again", "Look again", id="doctor.again"),
        Binding("x", "reset", "Own key", id="doctor.reset"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.findings: list[Finding] = []
        self.keys_found: list[Key] = []
        self.places: list[tuple[Place, int | None]] = []
        self._gone = threading.Event()
        self._examination: Examination | None = None

    def body(self) -> ComposeResult:
        """The tabs."""
        with TabbedContent(id="tabs"):
            with TabPane("1 environment", id="environment"), VerticalScroll(can_focus=True):
                yield Static(id="findings", classes="page")
            with TabPane("2 themes", id="themes"), Horizontal():
                yield OptionList(*(Option(title, id=name) for name, title in TITLES.items()), id="theme-list")
                yield Static(SWATCH, id="swatch")
            with TabPane("3 keys", id="keys"):
                yield DataTable[Text](id="key-table", cursor_type="row", cell_padding=1)
            with TabPane("4 paths", id="paths"):
                yield DataTable[Text](id="path-table", cursor_type="row", cell_padding=1)
                yield Static(id="path-about", markup=False)

    def on_mount(self) -> None:
        """Begin to look at everything."""
        self.say_where()
        self.query_one(OptionList).highlighted = list(TITLES).index(self.app.theme)
        self.app.theme_changed_signal.subscribe(self, lambda theme: self._dressed())
        self._examination = Examination(self.app.root)
        self.action_again()
        self.work(all_keys, self._have_keys, group="keys")
        self.work(self._measure, self._have_places, group="paths")

    def on_unmount(self) -> None:
        """End looking."""
        self._gone.set()
        if self._examination is not None:
            self._examination.close()

    def on_resize(self, event: events.Resize) -> None:
        """Other room, other columns."""
        self._show_keys()
        self._show_places()

    def _dressed(self) -> None:
        """Colours in tables are not a stylesheet's: write them again."""
        self._show_findings()
        self._show_keys()

    def action_again(self) -> None:
        """Examine this machine once more."""
        self.findings = []
        self.query_one("#findings", Static).update(
            "looking at this machine; frameworks take a few seconds ..."
        )
        if self._examination is not None:
            self.work(self._examination.ask, self._have_findings, group="examine")

    def _have_findings(self, findings: list[Finding]) -> None:
        self.findings = findings
        self._show_findings()

    def _show_findings(self) -> None:
        if not self.findings:
            return
        self.query_one("#findings", Static).update(environment(self.findings, self.app.theme_variables))
        odd = sum(finding.state == "missing" for finding in self.findings)
        self.say_where(state=f"[$error]{odd} missing[/]" if odd else "[$success]nothing is missing[/]")

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Wear the colours under the cursor."""
        name = event.option.id
        if name is not None and name != self.app.theme and self.query_one(TabbedContent).active == "themes":
            self.app.theme = name

    def _have_keys(self, keys: list[Key]) -> None:
        self.keys_found = keys
        self._show_keys()

    def _show_keys(self) -> None:
        table = self.query_one("#key-table", DataTable)
        row, changed, variables = table.cursor_row, self.app.settings.keys, self.app.theme_variables
        table.clear(columns=True)
        if not self.keys_found:
            return
        for heading, width in (("key", 14), ("what it does", 24), ("id", max(18, self.size.width - 50))):
            table.add_column(heading, width=width)
        for key in self.keys_found:
            mine = key.name in changed
            was = f"  (was {shown(key.default)})" if mine else ""
            table.add_row(
                Text(
                    one_line(shown(key.current(changed)), 14), style=variables["accent"] if mine else "bold"
                ),
                Text(one_line(key.what, 24)),
                Text(
                    one_line(key.name + was, max(18, self.size.width - 50)), style=variables.get("quiet", "")
                ),
                key=key.name,
            )
        table.move_cursor(row=max(0, row))

    @property
    def current_key(self) -> Key | None:
        """The key under the cursor."""
        row = self.query_one("#key-table", DataTable).cursor_row
        return self.keys_found[row] if 0 <= row < len(self.keys_found) else None

    def rebind(self, key: Key, new: str | None) -> None:
        """Give something another key; None gives it its own back."""
        changed = {name: keys for name, keys in self.app.settings.keys.items() if name != key.name}
        if new is not None and new != key.default:
            changed[key.name] = new
        self.app.set_keymap(changed)
        self.app.remember(keys=changed)
        self._show_keys()
        self.name_keys()

    def action_reset(self) -> None:
        """Give what is under the cursor its own key back, unless something else has got that meanwhile."""
        key = self.current_key
        if key is None:
            return
        other = in_the_way(key, key.default, self.keys_found, self.app.settings.keys)
        if other is None:
            self.rebind(key, None)
        else:
            text = f"{shown(key.default)} is {other.what} now ({other.name}): give that another key first."
            self.notify(text, severity="warning", markup=False)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Ask for another key, or open a folder."""
        if event.data_table.id == "path-table":
            self._open(self.places[event.cursor_row][0])
        elif (key := self.current_key) is not None:
            question = RebindScreen(key, self.keys_found, self.app.settings.keys)
            self.app.push_screen(question, lambda new: self.rebind(key, new) if new else None)

    def _measure(self) -> list[tuple[Place, int | None]]:
        return [(place, bytes_in(place.path, self._gone.is_set)) for place in places(self.app.root)]

    def _have_places(self, found: list[tuple[Place, int | None]]) -> None:
        self.places = found
        self._show_places()

    def _show_places(self) -> None:
        table = self.query_one("#path-table", DataTable)
        row, room = table.cursor_row, max(20, self.size.width - 33)
        table.clear(columns=True)
        if not self.places:
            return
        for heading, width in (("what", 14), ("size", 9), ("where", room)):
            table.add_column(heading, width=width)
        for place, count in self.places:
            table.add_row(
                Text(place.name, style="bold"),
                Text(UNKNOWN if count is None else size(count), justify="right"),
                Text(_end_of(clean(str(place.path)), room)),
            )
        table.move_cursor(row=max(0, row))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Say what a path is for, with the whole path."""
        if event.data_table.id == "path-table" and self.places:
            place, count = self.places[event.cursor_row]
            missing = "" if count is not None else " (not there yet)"
            self.query_one("#path-about", Static).update(clean(f"{place.about}{missing}\n{place.path}"))

    def _open(self, place: Place) -> None:
        if not place.path.exists():
            self.notify(f"{place.path} is not there yet", markup=False)
        elif not open_here(place.path):
            self.app.copy_to_clipboard(str(place.path))
            self.notify("there is nothing to open it with here; its path is in the clipboard")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Each tab has its own keys."""
        if action in ("again", "reset") and self.query(TabbedContent):  # none while the screen comes or goes
            wanted = "environment" if action == "again" else "keys"
            return self.query_one(TabbedContent).active == wanted
        return True

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """The keys are those of the tab."""
        self.refresh_bindings()

    def action_tab(self, name: str) -> None:
        """Look at another tab."""
        tabs = self.query_one(TabbedContent)
        tabs.active = name
        for widget in tabs.get_pane(name).query("VerticalScroll, DataTable, OptionList"):
            widget.focus()


def _end_of(path: str, width: int) -> str:
    """A path whose beginning is left out where it is too long."""
    return path if len(path) <= width else "…" + path[len(path) - width + 1 :]


def environment(findings: Sequence[Finding], variables: dict[str, str]) -> RenderableType:
    """What was found, and below it what to do."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for options in ({"width": 1}, {"no_wrap": True}, {"overflow": "fold"}):
        table.add_column(**options)
    for finding in findings:
        mark, tone = MARKS.get(finding.state, ("·", "quiet"))
        name = Text(finding.name, style=variables.get("quiet", ""))
        table.add_row(Text(mark, style=variables.get(tone, "")), name, Text(clean(finding.value)))
    advice: list[RenderableType] = []
    for finding in findings:
        if finding.advice:
            tone = variables.get(MARKS.get(finding.state, ("", "quiet"))[1], "")
            advice += [Text(), Text(finding.name, style=f"bold {tone}"), Text(clean(finding.advice))]
    odd = sum(finding.state != "ok" for finding in findings)
    heading = Text(
        f"{plural(len(findings), 'thing')} looked at, {odd} to mind\n", style=variables.get("quiet", "")
    )
    return Group(heading, table, *advice)
