"""The step Method: a method, a preset, and a field for every number that matters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input

from mlx_align import methods
from mlx_align.errors import ConfigError
from mlx_align.settings import Resolved
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.new_run import explanations
from mlx_align_tui.screens.new_run.draft import Draft
from mlx_align_tui.screens.new_run.fields import Spec, advanced, simple
from mlx_align_tui.screens.new_run.form import Field, Form
from mlx_align_tui.screens.new_run.rewards import FUNCTION, REWARD, functions
from mlx_align_tui.widgets.path_picker import PathPicker, is_python

if TYPE_CHECKING:
    from mlx_align_tui.app import AlignApp

NONE = "none"
METHOD = Spec("method", "a method", "how it learns", tuple(methods.METHODS))
PRESET = Spec("preset", "a preset", "a set of values to begin with", (NONE,))


class MethodStep(Vertical):
    """The method, the preset and the fields.

    Args:
        draft: what is chosen here goes there.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+o", "find", "Find the file", id="new.find")]

    class Changed(Message):
        """Something was chosen or typed."""

    class Reached(Message):
        """The cursor is somewhere else, or what is to be said of where it is has changed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self._at: Spec | None = None
        self._wrong: tuple[str, str] = ("", "")
        self._held: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """Two choices, and the fields below."""
        yield Form(id="choices")
        yield Form(id="keys")

    @property
    def _app(self) -> AlignApp:
        return cast("AlignApp", self.app)

    @property
    def _keys(self) -> Form:
        return self.query_one("#keys", Form)

    async def begin(self) -> None:
        """Show what the draft has."""
        draft = self._draft
        preset = Spec(PRESET.key, PRESET.type, PRESET.description, (NONE, *draft.presets))
        values = {METHOD.key: draft.method, PRESET.key: draft.preset or NONE}
        await self.query_one("#choices", Form).fill([METHOD, preset], values, {})
        await self.fill()

    async def fill(self) -> None:
        """Show the fields anew."""
        draft = self._draft
        specs = advanced(draft.method) if self._app.settings.advanced else simple(draft.method)
        typed = {spec.key: text for spec in specs if (text := draft.text(spec.key))}
        await self._keys.fill(specs, self._held, typed)
        self.post_message(self.Changed())

    async def choose(self, method: str) -> None:
        """Take another method, which has other fields."""
        self._draft.method = method
        self._offer()
        await self.fill()

    def _offer(self) -> None:
        """Show the method, and the presets that suit it."""
        draft, form = self._draft, self.query_one("#choices", Form)
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

    def show(self, resolved: Resolved) -> None:
        """Show what holds, and where it comes from."""
        draft, holds = self._draft, self._draft.holds(resolved)
        self._held = {key: text for key, (text, _) in holds.items()}
        self._keys.reveal({key.split(".")[1] for key in holds if key.startswith(REWARD)})
        self._keys.show(holds, draft.text)
        self._say_wrong("", "")

    def refuse(self, error: ConfigError) -> None:
        """Show an error at the field it belongs to; where that is not shown, all fields are."""
        key, message = self._draft.key_of(error), re.sub(r"^reward '\w+': ", "", error.message)
        self._keys.reveal(self._draft.rewards.weights)
        hint = "" if message.startswith("must ") else error.hint or ""  # it would list what is here to see
        self._say_wrong(key, f"{message}\n{hint}".strip())
        if self._keys.refuse(key, message.partition(" and is ")[0]) or self._app.settings.advanced:
            return
        if any(spec.key == key for spec in advanced(self._draft.method)):
            self._app.remember(advanced=True)
            self.call_later(self.fill)

    def _say_wrong(self, key: str, text: str) -> None:
        before, self._wrong = self._wrong, (key, text)
        if self._at is not None and self._at.key in (before[0], key) and before != self._wrong:
            self._explain(self._at)

    async def on_field_edited(self, event: Field.Edited) -> None:
        """Take what was typed; another method has other fields."""
        event.stop()
        draft, key = self._draft, event.spec.key
        if key == METHOD.key:
            await self.choose(event.text)
        elif key == PRESET.key:
            draft.preset = None if event.text == NONE else event.text
        else:
            draft.put(key, event.text)
        if key in (METHOD.key, PRESET.key):
            self._explain(event.spec)
        self.post_message(self.Changed())

    def on_form_reached(self, event: Form.Reached) -> None:
        """Say what the field under the cursor means."""
        event.stop()
        self._at = event.spec
        self.refresh_bindings()
        self._explain(event.spec)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A file is looked for where one is meant."""
        return action != "find" or (self._at is not None and self._at.key == REWARD + FUNCTION)

    def action_find(self) -> None:
        """Choose the file of a function of one's own."""

        def take(path: Path | None) -> None:
            field = self._keys.field(REWARD + FUNCTION)
            if path is None or field is None:
                return
            try:
                first = (*functions(path), "reward")[0]
            except ConfigError as error:
                self._app.tell(error)
            else:
                field.query_one(Input).value = f"{path}:{first}"

        hint = "A .py file; its first function is taken, and you can type another."
        self.app.push_screen(PathPicker("Choose the function's file", hint, Path.cwd(), is_python), take)

    def _explain(self, spec: Spec) -> None:
        draft = self._draft
        if spec.key == METHOD.key:
            text = explanations.explain_method(draft.method)
        elif spec.key == PRESET.key:
            text = f"[b $accent]preset[/]\n{explanations.PRESETS[draft.preset or NONE]}"
        else:
            meaning = explanations.explain(spec, draft.method)
            wrong = f"[$error]✘ {plain(self._wrong[1])}[/]\n\n" if self._wrong[0] == spec.key else ""
            kind = plain(spec.type.replace("integer", "whole number"))
            text = f"[b $accent]{spec.key}[/]  [$quiet]{kind}[/]\n{wrong}{meaning}"
        self.post_message(self.Reached(text))
