"""New run: Model, Data, Method, Plan, Launch."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Input, Static, TabbedContent, TabPane, Tabs

from mlx_align import embedded, methods
from mlx_align.config import RunConfig
from mlx_align.errors import AlignError, ConfigError
from mlx_align.methods.base import RowKind
from mlx_align.runs import RunDirectory
from mlx_align.settings import Resolved
from mlx_align_tui.keymap import keyed
from mlx_align_tui.live.programs import Fit
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.new_run import explanations, fetching, saving, sources, texts
from mlx_align_tui.screens.new_run.draft import Draft
from mlx_align_tui.screens.new_run.launching import LaunchStep
from mlx_align_tui.screens.new_run.method import MethodStep
from mlx_align_tui.screens.new_run.planning import PlanStep
from mlx_align_tui.screens.new_run.rewards import text_of
from mlx_align_tui.screens.new_run.sources import SourceStep
from mlx_align_tui.screens.quit import ConfirmScreen

STEPS = ("model", "data", "method", "plan", "launch")
STARTS: dict[str, str] = {
    "model": "#model OptionList",
    "data": "#data OptionList",
    "method": "#choices Choice",
    "plan": "PlanStep",
    "launch": "LaunchStep Button",
}
"""Step -> where the cursor begins."""
AT = {"advanced": "method", "plan": "plan", "copy": "launch", "save": "launch"}
"""Action -> the one step at which it is offered."""
LOST = "What you chose and typed for this run would be lost."
NOT_STARTED = "A run is being prepared; it would not be started."


class NewRunScreen(AlignScreen):
    """Puts a run together.

    Args:
        start: a configuration to begin with; None for the demo's.

    Attributes:
        draft: what was chosen so far.
        resolved: the same as a checked configuration, None where it is wrong.
    """

    crumb = "New run"
    help_text = explanations.HELP
    AUTO_FOCUS = "#model OptionList"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012  (as Textual declares it)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "turn(1)", "Next", id="new.next"),
        Binding("ctrl+b", "turn(-1)", "Back", id="new.back"),
        Binding("v,f6", "look", "View rows", id="new.look"),
        Binding("f2", "advanced", "All keys", id="new.advanced"),
        Binding("p", "plan", "Plan again", id="new.plan"),
        Binding("u", "use", "Use the change", id="new.use"),
        Binding("f3", "copy", "Copy command", id="new.copy"),
        Binding("f4", "save", "Save TOML", id="new.save"),
        Binding("f5", "launch", "Launch", id="new.launch"),
        *(
            Binding(str(n), f"show('{step}')", step.title(), id=f"new.{step}_tab", show=False)
            for n, step in enumerate(STEPS, 1)
        ),
    ]

    def __init__(self, start: RunConfig | None = None) -> None:
        super().__init__()
        self._start = start
        self.resolved: Resolved | None = None
        self._kept: Draft | None = None
        self._started: RunDirectory | None = None

    def body(self) -> ComposeResult:
        """The steps, and beside or below them what the choice under the cursor means."""
        root = self.app.root
        self.draft = draft = Draft(root) if self._start is None else Draft.of(root, self._start)
        self._keep()
        with Vertical(id="new-run"):
            with TabbedContent(*(f"{n} {step.title()}" for n, step in enumerate(STEPS, 1)), id="steps"):
                with TabPane("1 Model", id="model"):
                    yield SourceStep("model", draft.model, "a folder, or a Hugging Face id: owner/name")
                with TabPane("2 Data", id="data"):
                    yield SourceStep("data", draft.data, "a .jsonl file, or a folder with train.jsonl")
                with TabPane("3 Method", id="method"):
                    yield MethodStep(draft)
                with TabPane("4 Plan", id="plan"):
                    yield PlanStep()
                with TabPane("5 Launch", id="launch"):
                    yield LaunchStep()
            with VerticalScroll(id="about", can_focus=False):
                yield Static(id="about-text")

    async def on_mount(self) -> None:
        """Fill lists and forms, and begin to plan."""
        settings = self.app.settings
        self.query_one("#model SourceStep", SourceStep).offer(sources.models(settings.recent_models))
        found = sources.data(settings.recent_data, Path.cwd())
        self.query_one("#data SourceStep", SourceStep).offer(found)
        await self._method.begin()
        self._explain(explanations.STEPS["model"])

    def on_screen_resume(self) -> None:
        """Files may have changed while another screen was looked at; a run that has started is watched."""
        if self._started is not None:
            self._watch(self._started)
        elif self.query("#keys *"):
            self.changed()

    # What is chosen

    @property
    def _method(self) -> MethodStep:
        return self.query_one(MethodStep)

    @property
    def step(self) -> str:
        """The step that is shown."""
        return self.query_one("#steps", TabbedContent).active

    @property
    def fit(self) -> Fit | AlignError | str:
        """The plan, why there is none, or what is being done."""
        return self.query_one(PlanStep).fit

    def changed(self) -> None:
        """Check everything, show it, and plan soon."""
        plan = self.query_one(PlanStep)
        try:
            self.resolved = self.draft.resolved()
        except ConfigError as error:
            self.resolved = None
            self._method.refuse(error)
            plan.wait()
            plan.say(error)
        else:
            self._method.show(self.resolved)
            plan.later(self.draft)

    def on_method_step_changed(self) -> None:
        """Check what was chosen there."""
        self.changed()

    def on_source_step_chosen(self, event: SourceStep.Chosen) -> None:
        """Take a model or data, and go on if it was chosen for good."""
        setattr(self.draft, event.kind, event.source)
        self.changed()
        if not event.final:
            return
        self.action_turn(1)
        if event.kind == "model":
            self._with_model(self.changed)
        elif event.source != embedded.SAMPLE:
            self.work(lambda: sources.kinds_of(event.source), self._suit, group="kinds")

    def _suit(self, suited: tuple[RowKind, ...] | None) -> None:
        """Choose another method where the rows are not of the kind that this one learns from."""
        if suited is None:  # they cannot be read: the plan says why
            return
        if not suited:
            self.notify(
                keyed(
                    self, "Columns have other names than ours: <<new.look>> shows and copies them with ours."
                )
            )
        elif methods.get(self.draft.method).rows not in suited:
            names = [method.name for method in methods.METHODS.values() if method.rows == suited[0]]
            self.notify(
                f"Rows like these are for {', '.join(names)}: the method is {names[0]} now.", markup=False
            )
            self.call_later(self._method.choose, names[0])

    def _with_model(self, then: Callable[[], None]) -> None:
        """Do something once the model is on this disk."""
        if self.resolved is not None:
            fetching.with_models(self, fetching.models_of(self.resolved.config)[:1], then)

    # What is shown

    def on_plan_step_planned(self) -> None:
        """Show what holds now."""
        self._show()

    def _show(self) -> None:
        self.say_where(self.step.title(), texts.badge(self.fit))
        self.query_one(LaunchStep).show(self.draft, self.resolved, self.fit)
        self.refresh_bindings()

    def _explain(self, text: str) -> None:
        self.query_one("#about-text", Static).update(keyed(self, text))
        self.query_one("#about").scroll_home(animate=False)

    def on_method_step_reached(self, event: MethodStep.Reached) -> None:
        """Say what the field under the cursor means."""
        if self.step == "method":
            self._explain(event.text)

    def on_tabbed_content_tab_activated(self) -> None:
        """Put the cursor where this step begins."""
        self._explain(explanations.STEPS.get(self.step, ""))
        self._show()
        if not isinstance(self.focused, Tabs):
            self.query(STARTS[self.step]).first(Widget).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done at this step is offered."""
        if not self.is_mounted or not self.query("#steps"):
            return True
        step = self.step
        if action in ("launch", "copy", "save"):
            return step == "launch" and self.resolved is not None
        if action == "use":
            return step == "plan" and isinstance(self.fit, Fit) and bool(self.fit.settings)
        if action == "look":
            return step in ("data", "method") and self.resolved is not None
        if action == "turn":
            return (step != "launch") if parameters[0] == 1 else (step != "model")
        return AT.get(action, step) == step

    # What keys do

    def action_turn(self, by: int) -> None:
        """One step on, or back."""
        place = STEPS.index(self.step) + by
        if 0 <= place < len(STEPS):
            self.action_show(STEPS[place])

    def action_show(self, step: str) -> None:
        """Go to a step."""
        if step != self.step:
            self.set_focus(None)
            self.query_one("#steps", TabbedContent).active = step

    def action_look(self) -> None:
        """See the rows as the model reads them."""
        from mlx_align.engine.data import data_path

        if self.resolved is not None:
            config = self.resolved.config
            self.app.go("data", data_path(config), config, self._take, over=True)

    def _take(self, key: str, text: str) -> None:
        """Take what another screen found out."""
        if key == "data.path":
            self.query_one("#data SourceStep", SourceStep).take(text, final=False)
        else:
            self.draft.put(key, text)
            self.call_later(self._method.fill)

    async def action_advanced(self) -> None:
        """Show every key, or only what matters most."""
        self.app.remember(advanced=not self.app.settings.advanced)
        await self._method.fill()

    def action_plan(self) -> None:
        """Plan again, and ask for the model if it is not here."""
        plan = self.query_one(PlanStep)

        def again() -> None:
            plan.say("planning ...")
            plan.now(self.draft)

        self._with_model(again)

    async def action_use(self) -> None:
        """Take the change that makes it fit."""
        if isinstance(self.fit, Fit):
            for key, value in (self.fit.settings or {}).items():
                self.draft.put(key, text_of(value))
            await self._method.fill()

    def action_copy(self) -> None:
        """Put the command into the clipboard."""
        saving.copy(self, self.draft)

    def action_save(self) -> None:
        """Write what was chosen to a file."""
        saving.save(self, self.draft, self._keep)

    def action_launch(self) -> None:
        """Make the run and start its engine."""
        if (resolved := self.resolved) is not None:
            wanted, step = fetching.models_of(resolved.config), self.query_one(LaunchStep)
            fetching.with_models(self, wanted, lambda: step.launch(resolved))

    # Leaving

    def _keep(self) -> None:
        """What is chosen now can be had again: it is what was begun with, or is in a file."""
        self._kept = deepcopy(self.draft)

    @property
    def would_lose(self) -> str:
        """What was chosen since, and is nowhere else, or is being launched."""
        if self._kept is None:
            return ""
        launching = any(step.busy for step in self.query(LaunchStep))
        return LOST if launching or self.draft != self._kept else ""

    def action_back(self) -> None:
        """Leave the line one types in; else leave, and ask first about what would be lost."""
        if isinstance(self.focused, Input):
            self.query(STARTS[self.step]).first(Widget).focus()
            return
        if not (lost := self.would_lose):
            self._leave(True)
            return
        text = f"{NOT_STARTED}\n{lost}" if self.query_one(LaunchStep).busy else lost
        self.app.push_screen(ConfirmScreen("Leave?", text, "Leave"), self._leave)

    def _leave(self, yes: bool | None) -> None:
        if not yes:
            return
        if self.query_one(LaunchStep).leave():
            super().action_back()
        else:
            self.notify("The engine is being started already; its screen opens in a moment.")

    def on_launch_step_launched(self, event: LaunchStep.Launched) -> None:
        """Remember what was used, and watch the run: at once, or when one comes back here."""
        settings = self.app.settings
        settings.remember_model(self.draft.model)
        settings.remember_data(self.draft.data)
        self.app.save_settings()
        self._started, self._kept = event.run, None  # nothing is left to lose here
        self.address = "", ()  # who asks for a new run means another one
        if not self.is_active:
            self.notify(f"{event.run.name} has started; it is on the list of runs", markup=False)
        self._watch(event.run)

    def _watch(self, run: RunDirectory) -> None:
        if self.is_active:
            self.app.pop_screen()
            self.app.go("monitor", run)
