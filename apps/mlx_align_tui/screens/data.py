"""Data: the rows as the model reads them, what is odd about them, how long they are, and their columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.widget import Widget
from textual.widgets import OptionList, Static, TabbedContent, TabPane, Tabs
from textual.widgets.option_list import Option

from mlx_align import embedded, methods
from mlx_align.config import RunConfig
from mlx_align.errors import AlignError
from mlx_align_cli.display.text import percent, plural
from mlx_align_tui.keymap import keyed
from mlx_align_tui.live.programs import Preview
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.data_parts.mapping import Columns, Mapping, look, write_copy
from mlx_align_tui.screens.data_parts.survey import Survey
from mlx_align_tui.screens.data_parts.tokens import tokens_text
from mlx_align_tui.widgets.histogram import LengthPlot

Use = Callable[[str, str], None]
TABS = ("rows", "lint", "lengths", "columns")
SIDES = ("prompt", "chosen", "rejected")
SIGNS = {
    "fault": ("✘ ", "error"),
    "finding": ("! ", "warning"),
    "row": ("    → ", ""),
    "more": ("      ", "quiet"),
}
"""Kind of an entry of the lint list -> its sign and its colour."""
HELP = """\
# Data

**Rows** shows each row as the model reads it: chat template, special tokens and all. Green text is what the
model learns to say; grey text is only read. <<data.before>> and <<data.next>> go from row to row,
<<data.tokens>> shows where tokens end.

**Lint** lists rows that cannot be used and what is odd about the others; enter goes to the row.

**Lengths** shows how long prompts and answers are. Move the line with <<lengths.shorter>> and
<<lengths.longer>>: rows beyond it are left out (or cut, see data.too_long). With <<data.use>> a new run uses
it.

**Columns** is for files whose columns have other names: it writes a copy with ours, of train.jsonl
and valid.jsonl where there are both.
"""


class Side(VerticalScroll):
    """One part of a row; left and right are other rows."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,n", "screen.step(1)", "Next row", id="data.next"),
        Binding("left,b", "screen.step(-1)", "Row before", id="data.before"),
        Binding("home", "screen.go(0)", "First row", id="data.first", show=False),
        Binding("end", "screen.go(-1)", "Last row", id="data.last", show=False),
        Binding("t", "screen.bounds", "Tokens", id="data.tokens"),
    ]


class DataScreen(AlignScreen):
    """Shows data before it is trained on.

    Args:
        path: a .jsonl file, or a folder with train.jsonl; None for the sample.
        config: of the run that is to learn from it; None for one that nobody changed.
        use: takes "data.max_length" or "data.path" and its value, for the screen that opened this one.
    """

    crumb = "Data"
    help_text = HELP
    AUTO_FOCUS = "#prompt"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (120, "-wide")]  # noqa: RUF012  (as Textual declares it)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "use", "Use this length", id="data.use"),
        *(
            Binding(str(n), f"show('{tab}')", tab.title(), id=f"data.{tab}_tab", show=False)
            for n, tab in enumerate(TABS, 1)
        ),
    ]

    def __init__(
        self,
        path: Path | None = None,
        config: RunConfig | None = None,
        use: Use | None = None,
    ) -> None:
        super().__init__()
        self._config, self._use = config or RunConfig(), use
        self._limit = self._config.data.max_length
        self.kind = methods.get(self._config.method.name).rows
        self.path = embedded.sample_for(self.kind) if path is None else path
        self.survey: Survey | None = None
        self.place = 0
        self._rows: dict[int, dict[str, Any]] = {}
        self._bounds = True
        self._preview: Preview | None = None
        self._targets: list[int | None] = []

    def body(self) -> ComposeResult:
        """Four tabs."""
        with TabbedContent(id="tabs"):
            with TabPane("1 Rows", id="rows"):
                yield Static(id="facts", markup=True)
                with Container(id="sides"):
                    for name in SIDES:
                        with Side(id=name) as side:
                            side.border_title = name
                            yield Static(classes="tokens")
            with TabPane("2 Lint", id="lint"):
                yield OptionList(id="findings")
            with TabPane("3 Lengths", id="lengths"):
                yield Static(id="line")
                yield LengthPlot()
            with TabPane("4 Columns", id="columns"):
                yield Mapping()

    def on_mount(self) -> None:
        """Begin to read."""
        self._read()

    def on_unmount(self) -> None:
        """Read no more."""
        if self._preview is not None:
            self._preview.close()

    def _read(self) -> None:
        if self._preview is not None:
            self._preview.close()
        self.survey, self.place, self._rows = None, 0, {}
        self.say_where(self.path.name, "[$quiet]starting ...[/]")
        preview = self._preview = Preview(self.path, self._config.model, self._config.method)
        self.run_worker(partial(self._follow, preview), thread=True, group="preview", exit_on_error=False)
        self.work(partial(look, self.path), self._looked, group="columns")

    def _looked(self, found: Columns | AlignError) -> None:
        mapping = self.query_one(Mapping)
        mapping.call_later(mapping.offer, found, self.kind)

    def _follow(self, preview: Preview) -> None:
        try:
            for message in preview.messages():
                self.app.call_from_thread(self._told, preview, message)
            problem = AlignError("the process that reads the data has ended", hint="Open the data again.")
        except AlignError as error:
            problem = error
        except OSError as error:  # it cannot be started
            problem = AlignError(f"the data cannot be read: {error}")
        self.app.call_from_thread(self._failed, preview, problem)

    def _told(self, preview: Preview, message: dict[str, Any]) -> None:
        if preview is not self._preview or not self.is_mounted:
            return
        if message["type"] == "progress":
            done = f" {message['done']:,} of {message['total']:,}" if message["total"] else ""
            self.say_where(self.path.name, f"[$quiet]{message['doing']}{done} ...[/]")
        elif message["type"] == "survey":
            self._surveyed(Survey.of(message))
        else:
            self._rows[message["index"]] = message
            self._show_row()

    def _failed(self, preview: Preview, error: AlignError) -> None:
        if preview is self._preview and self.is_mounted:
            self.say_where(self.path.name, "[$error]✘ cannot be read[/]")
            lines = [error.message, error.where or "", error.hint or ""]
            self.query_one("#facts", Static).update("\n".join(plain(line) for line in lines if line))

    def _surveyed(self, survey: Survey) -> None:
        self.survey = survey
        words = [f"[$quiet]{plural(len(survey.names), 'row')} for {plain(self._config.method.name)}[/]"]
        words += [f"[$error]✘ {len(survey.faults):,} unusable[/]"] if survey.faults else []
        words += [f"[$warning]{plural(len(survey.findings), 'finding')}[/]"] if survey.findings else []
        self.say_where(self.path.name, " · ".join(words))
        self._list_findings(survey)
        self.query_one(LengthPlot).show(survey.lengths, survey.whole, self._limit)
        self._show_line()
        for number, name in enumerate(SIDES[1:]):
            side = self.query_one(f"#{name}", Side)
            side.display = number < len(survey.titles)
            side.border_title = survey.titles[number] if side.display else name
        if survey.names:
            self.action_go(0)
        else:
            text = (
                "[$warning]No row can be used.[/] Lint (<<data.lint_tab>>) says why; "
                "columns of other names: Columns (<<data.columns_tab>>)."
            )
            self.query_one("#facts", Static).update(keyed(self, text))

    def _list_findings(self, survey: Survey) -> None:
        colours = self.app.theme_variables
        listed = self.query_one("#findings", OptionList)
        listed.clear_options()
        self._targets = []
        for kind, said, target in survey.entries():
            sign, colour = SIGNS[kind]
            listed.add_option(Option(Text.assemble((sign, colours.get(colour, "")), said)))
            self._targets.append(target)
        if not self._targets:
            listed.add_option(Option(Text("✔ nothing odd was found", style=colours.get("success", ""))))
            self._targets.append(None)
        listed.highlighted = 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Go to the row that is meant."""
        target = self._targets[event.option_index]
        if target is not None:
            self.action_show("rows")
            self.action_go(target)

    def action_step(self, by: int) -> None:
        """Go so many rows on."""
        if self.survey is not None and self.survey.names:
            self.action_go(min(len(self.survey.names) - 1, max(0, self.place + by)))

    def action_go(self, place: int) -> None:
        """Go to a row, counted from 0; -1 is the last."""
        if self.survey is None or not self.survey.names or self._preview is None:
            return
        self.place = place % len(self.survey.names)
        if self.place not in self._rows:
            self._preview.ask(self.place)
        self._show_row()

    def action_bounds(self) -> None:
        """Show where tokens end, or do not."""
        self._bounds = not self._bounds
        self._show_row()

    def _show_row(self) -> None:
        row, survey = self._rows.get(self.place), self.survey
        if row is None or survey is None:
            return
        answers = survey.answers[self.place]
        parts = [("prompt", survey.prompts[self.place]), *zip(survey.titles, answers, strict=True)]
        lengths = " · ".join(f"{name} {length:,}" for name, length in parts)
        name = survey.names[self.place].rsplit("/", 1)[-1]
        right = f"  [$quiet]right answer[/] {plain(row['right'])}" if row["right"] else ""
        place = f"[b]row {self.place + 1:,}[/] of {len(survey.names):,}"
        facts = f"{place}  [$quiet]{plain(name)}  {lengths} tokens[/]{right}"
        self.query_one("#facts", Static).update(facts)
        for side, pieces in zip(SIDES, [row["prompt"], *row["answers"]], strict=False):
            scored = side != "prompt" or survey.scores_prompt
            front = ("error" if side == "rejected" else "success") if scored else "quiet"
            text = tokens_text(pieces, self.app.theme_variables, front=front, bounds=self._bounds)
            self.query_one(f"#{side} .tokens", Static).update(text)

    def on_length_plot_moved(self, event: LengthPlot.Moved) -> None:
        """Say what the line means where it is now."""
        self._show_line()

    def _show_line(self) -> None:
        plot = self.query_one(LengthPlot)
        rows = len(self.survey.names) if self.survey else 0
        share = percent(plot.beyond / rows) if rows else ""
        beyond = "[$success]every row fits[/]"
        if plot.beyond:
            beyond = f"[$error]{plot.beyond:,} of {rows:,} rows ({share}) are longer[/]"
        aside = "  [$quiet]the line lies right of the plot[/]" if plot.limit > plot.high else ""
        self.query_one("#line", Static).update(f"[$accent]data.max_length {plot.limit:,}[/]  {beyond}{aside}")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A length can be used where there is somebody to use it."""
        if action == "use":
            return self._use is not None and self.survey is not None and isinstance(self.focused, LengthPlot)
        return True

    def action_use(self) -> None:
        """Give the length of the line to the new run."""
        if self._use is not None:
            self._limit = self.query_one(LengthPlot).limit
            self._use("data.max_length", str(self._limit))
            self.notify(f"the new run has data.max_length {self._limit:,} now", markup=False)

    def action_show(self, tab: str) -> None:
        """Go to a tab."""
        tabs = self.query_one("#tabs", TabbedContent)
        if tab != tabs.active:
            self.set_focus(None)
            tabs.active = tab

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Put the cursor where this tab begins."""
        selector = {
            "rows": "#prompt",
            "lint": "#findings",
            "lengths": "LengthPlot",
            "columns": "Mapping Choice",
        }
        found = self.query(selector[self.query_one("#tabs", TabbedContent).active])
        if found and not isinstance(self.focused, Tabs):
            found.first(Widget).focus()

    @property
    def keeps_something(self) -> bool:
        """Columns that were chosen, and of which no copy was written yet."""
        return super().keeps_something or any(mapping.begun for mapping in self.query(Mapping))

    def on_mapping_asked(self, event: Mapping.Asked) -> None:
        """Write the copy and show it."""
        self.work(
            lambda: write_copy(event.files, event.mapping, event.target),
            lambda rows: self._written(event.target, rows),
            group="write",
        )

    def _written(self, target: Path, rows: int) -> None:
        said = f"{plural(rows, 'row')} written to {target}; this is the data now"
        self.notify(said, title="Copied", markup=False)
        self.path = target
        if self._use is not None:
            self._use("data.path", str(target))
        self._read()
        self.action_show("rows")
