"""New run: Model, Data, Method, Plan, Launch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from rich.markup import escape
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Button, OptionList, Static, TabbedContent, TabPane, Tabs

from mlx_align import embedded, methods
from mlx_align.config import RunConfig
from mlx_align.errors import AlignError, ConfigError
from mlx_align.methods.base import RowKind
from mlx_align.settings import Resolved
from mlx_align_tui.live.programs import Fit
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.new_run import explanations, sources, texts
from mlx_align_tui.screens.new_run.draft import Draft, text_of
from mlx_align_tui.screens.new_run.fields import Spec, advanced, simple
from mlx_align_tui.screens.new_run.form import Field, Form
from mlx_align_tui.screens.new_run.sources import SourceStep
from mlx_align_tui.screens.new_run.steps import LaunchStep, PlanStep
from mlx_align_tui.widgets.path_picker import PathPicker, is_data, is_model

STEPS = ("model", "data", "method", "plan", "launch")
NONE = "none"
METHOD = Spec("method", "a method", "how it learns", tuple(methods.METHODS))
PRESET = Spec("preset", "a preset", "a set of values to begin with", (NONE,))
AT = {"advanced": "method", "plan": "plan", "copy": "launch", "save": "launch"}
"""Action -> the one step at which it is offered."""


class NewRunScreen(AlignScreen):
    """Puts a run together.

    Args:
        start: a configuration to begin with; None for the demo's.
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
        *(Binding(str(n), f"show('{step}')", show=False) for n, step in enumerate(STEPS, 1)),
    ]

    def __init__(self, start: RunConfig | None = None) -> None:
        super().__init__()
        self._start = start
        self.resolved: Resolved | None = None

    def body(self) -> ComposeResult:
        """The steps, and beside or below them what the choice under the cursor means."""
        root = self.app.root
        self.draft = Draft(root) if self._start is None else Draft.of(root, self._start)
        draft = self.draft
        with Vertical(id="new-run"):
            with TabbedContent(*(f"{n} {step.title()}" for n, step in enumerate(STEPS, 1)), id="steps"):
                with TabPane("1 Model", id="model"):
                    yield SourceStep("model", draft.model, "a folder, or a Hugging Face id: owner/name")
                with TabPane("2 Data", id="data"):
                    yield SourceStep("data", draft.data, "a .jsonl file, or a folder with train.jsonl")
                with TabPane("3 Method", id="method"):
                    yield Form(id="choices")
                    yield Form(id="keys")
                with TabPane("4 Plan", id="plan"):
                    yield PlanStep()
                with TabPane("5 Launch", id="launch"):
                    yield LaunchStep()
            with VerticalScroll(id="about", can_focus=False):
                yield Static(id="about-text")

    async def on_mount(self) -> None:
        """Fill lists and forms, and begin to plan."""
        settings, draft = self.app.settings, self.draft
        for kind in ("model", "data"):
            recent = settings.recent_models if kind == "model" else settings.recent_data
            found = sources.models(recent) if kind == "model" else sources.data(recent, Path.cwd())
            self.query_one(f"#{kind} SourceStep", SourceStep).offer(found)
        preset = Spec(PRESET.key, PRESET.type, PRESET.description, (NONE, *draft.presets))
        values = {METHOD.key: draft.method, PRESET.key: draft.preset or NONE}
        await self.query_one("#choices", Form).fill([METHOD, preset], values, {})
        await self._fill()
        self._explain(explanations.STEPS["model"])

    async def _fill(self) -> None:
        specs = advanced(self.draft.method) if self.app.settings.advanced else simple(self.draft.method)
        typed = {spec.key: text for spec in specs if (text := self.draft.text(spec.key))}
        await self.query_one("#keys", Form).fill(specs, {}, typed)
        self.changed()

    @property
    def step(self) -> str:
        """The step that is shown."""
        return self.query_one("#steps", TabbedContent).active

    def changed(self) -> None:
        """Check everything, show it, and plan soon."""
        plan = self.query_one(PlanStep)
        try:
            self.resolved = self.draft.resolved()
        except ConfigError as error:
            self.resolved = None
            self._land_error(error)
            plan.say(error)
        else:
            holds = {key: (text_of(value), origin) for key, value, origin in self.resolved.items()}
            self.query_one("#keys", Form).show(holds, self.draft.text)
            plan.later(self.draft)

    def _land_error(self, error: ConfigError) -> None:
        """Show an error at the field it belongs to; where that is not shown, all fields are."""
        found = re.match(r"[\w.]+", error.where or "")
        key = found[0] if found else ""
        if self.query_one("#keys", Form).refuse(key, error.message) or self.app.settings.advanced:
            return
        if any(spec.key == key for spec in advanced(self.draft.method)):
            self.app.remember(advanced=True)
            self.call_later(self._fill)

    @property
    def fit(self) -> Fit | AlignError | str:
        """The plan, why there is none, or what is being done."""
        return self.query_one(PlanStep).fit

    def on_plan_step_planned(self, event: PlanStep.Planned) -> None:
        """Show what holds now."""
        self._show()

    def _show(self) -> None:
        self.say_where(self.step.title(), texts.badge(self.fit))
        self.query_one(LaunchStep).show(self.draft, self.resolved, self.fit)
        self.refresh_bindings()

    def _explain(self, text: str) -> None:
        self.query_one("#about-text", Static).update(text)
        self.query_one("#about").scroll_home(animate=False)

    def on_source_step_chosen(self, event: SourceStep.Chosen) -> None:
        """Take a model or data, and go on if it was chosen for good."""
        setattr(self.draft, event.kind, event.source)
        self.changed()
        if event.final:
            self.action_turn(1)
        if event.final and event.kind == "data" and event.source != embedded.SAMPLE:
            self.work(lambda: sources.kinds_of(event.source), self._suit, group="kinds")

    def _suit(self, suited: tuple[RowKind, ...] | None) -> None:
        """Choose another method where the rows are not of the kind that this one learns from."""
        if suited is None:  # they cannot be read: the plan says why
            return
        if not suited:
            self.notify("These columns have other names than ours: v shows them, and makes a copy with ours.")
        elif methods.get(self.draft.method).rows not in suited:
            names = [method.name for method in methods.METHODS.values() if method.rows == suited[0]]
            self.notify(f"Rows like these are for {', '.join(names)}: the method is {names[0]} now.")
            self.call_later(self._choose, names[0])

    async def _choose(self, method: str) -> None:
        self.draft.method = method
        self._offer_choices()
        await self._fill()

    async def on_field_edited(self, event: Field.Edited) -> None:
        """Take what was typed; another method has other fields."""
        draft, key = self.draft, event.spec.key
        if key == METHOD.key:
            await self._choose(event.text)
            self._explain_field(event.spec)
        elif key == PRESET.key:
            draft.preset = None if event.text == NONE else event.text
            self.changed()
            self._explain_field(event.spec)
        else:
            draft.put(key, event.text)
            self.changed()

    def _offer_choices(self) -> None:
        """Show the method, and the presets that suit it."""
        draft, form = self.draft, self.query_one("#choices", Form)
        if draft.preset not in draft.presets:
            draft.preset = None
        offers = {
            METHOD.key: (METHOD.choices, draft.method),
            PRESET.key: ((NONE, *draft.presets), draft.preset or NONE),
        }
        for key, (options, value) in offers.items():
            field = form.field(key)
            if field is not None:
                field.offer(options, value)

    def on_form_reached(self, event: Form.Reached) -> None:
        """Say what the field under the cursor means."""
        self._explain_field(event.spec)

    def _explain_field(self, spec: Spec) -> None:
        draft = self.draft
        if spec.key == METHOD.key:
            self._explain(explanations.explain_method(draft.method))
        elif spec.key == PRESET.key:
            self._explain(f"[b $accent]preset[/]\n{explanations.PRESETS[draft.preset or NONE]}")
        else:
            text = explanations.explain(spec.key, draft.method, spec.description)
            self._explain(f"[b $accent]{spec.key}[/]  [$quiet]{escape(spec.type)}[/]\n{text}")

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Put the cursor where this step begins."""
        step = self.step
        self._explain(explanations.STEPS.get(step, ""))
        self._show()
        starts: dict[str, tuple[str, type[Widget]]] = {
            "model": ("#model OptionList", OptionList),
            "data": ("#data OptionList", OptionList),
            "method": ("#choices Choice", Widget),
            "plan": ("PlanStep", PlanStep),
            "launch": ("#go", Button),
        }
        selector, kind = starts[step]
        if not isinstance(self.focused, Tabs):
            self.query(selector).first(kind).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done at this step is offered."""
        if not self.is_mounted or not self.query("#steps"):
            return True
        step = self.step
        if action == "launch":
            return step == "launch" and self.resolved is not None
        if action == "use":
            return step == "plan" and isinstance(self.fit, Fit) and bool(self.fit.settings)
        if action == "look":
            return step in ("data", "method") and self.resolved is not None
        if action == "turn":
            return (step != "launch") if parameters[0] == 1 else (step != "model")
        return AT.get(action, step) == step

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

    def action_browse(self) -> None:
        """Choose a file or folder on this disk."""
        step = self.query_one(f"#{self.step} SourceStep", SourceStep)
        wanted, hint = {
            "model": (is_model, "A folder with config.json and *.safetensors."),
            "data": (is_data, "A .jsonl file, or a folder with train.jsonl."),
        }[self.step]
        picker = PathPicker(f"Choose the {self.step}", hint, Path.cwd(), wanted)
        self.app.push_screen(picker, lambda path: step.take(str(path), final=True) if path else None)

    def action_look(self) -> None:
        """See the rows as the model reads them."""
        from mlx_align.engine.data import data_path

        if self.resolved is None:
            return
        draft, path = self.draft, data_path(self.resolved.config)
        self.app.go("data", path, draft.model, draft.method, self._take)

    def _take(self, key: str, text: str) -> None:
        """Take what another screen found out."""
        if key == "data.path":
            self.query_one("#data SourceStep", SourceStep).take(text, final=False)
        else:
            self.draft.put(key, text)
            self.call_later(self._fill)

    async def action_advanced(self) -> None:
        """Show every key, or only what matters most."""
        self.app.remember(advanced=not self.app.settings.advanced)
        await self._fill()

    def action_plan(self) -> None:
        """Plan again, and fetch the model for it if it must be."""
        plan = self.query_one(PlanStep)
        plan.say("planning, and fetching the model if it is not here yet ...")
        plan.now(self.draft, fetch=True)

    async def action_use(self) -> None:
        """Take the change that makes it fit."""
        if isinstance(self.fit, Fit):
            for key, value in (self.fit.settings or {}).items():
                self.draft.put(key, text_of(value))
            await self._fill()

    def action_copy(self) -> None:
        """Put the command into the clipboard."""
        self.query_one(LaunchStep).copy()

    def action_save(self) -> None:
        """Write what was chosen to a file."""
        self.query_one(LaunchStep).save()

    def action_launch(self) -> None:
        """Make the run and start its engine."""
        self.query_one(LaunchStep).launch()

    def on_launch_step_launched(self, event: LaunchStep.Launched) -> None:
        """Remember what was used, and watch the run."""
        settings = self.app.settings
        settings.remember_model(self.draft.model)
        settings.remember_data(self.draft.data)
        self.app.save_settings()
        self.app.pop_screen()
        self.app.go("monitor", event.run)
