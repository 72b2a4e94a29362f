"""A form of configuration keys: one line each, with where its value comes from, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.events import DescendantFocus
from textual.message import Message
from textual.widgets import Input, Static

from mlx_align_tui.keymap import FIELDS
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.new_run.fields import Spec
from mlx_align_tui.widgets.choice import Choice


class Field(Horizontal):
    """One key: its name, its value, and where that comes from.

    Args:
        spec: the key.
        value: what holds now, as text.
        typed: what was typed for it, nothing if it holds by itself.
    """

    class Edited(Message):
        """Something was typed or chosen."""

        def __init__(self, spec: Spec, text: str) -> None:
            super().__init__()
            self.spec, self.text = spec, text

    def __init__(self, spec: Spec, value: str, typed: str) -> None:
        super().__init__()
        self.spec, self._value, self._typed = spec, value, typed

    def compose(self) -> ComposeResult:
        """Name, value, origin."""
        yield Static(self.spec.label, classes="name", markup=False)
        if self.spec.choices:
            options = list(self.spec.choices)
            yield Choice(options, self._typed or self._value)
        else:
            shown = self._value or self.spec.empty
            yield Input(self._typed, placeholder=shown, compact=True, select_on_focus=False)
        yield Static("", classes="origin")

    def show(self, value: str, origin: str) -> None:
        """Show what holds now, and where it comes from."""
        for field in self.query(Input):
            field.placeholder = value or self.spec.empty
        for choice in self.query(Choice):
            if choice.value != value and not choice.has_focus:
                choice.offer(choice.options, value)
        self.query_one(".origin", Static).update(f"[$quiet]{plain(origin)}[/]")
        self.remove_class("-wrong")

    def offer(self, options: Sequence[str], value: str) -> None:
        """Replace the values of a choice."""
        self.query_one(Choice).offer(options, value)

    def refuse(self, message: str) -> None:
        """Show what is wrong with it."""
        self.query_one(".origin", Static).update(f"[$error]✘ {plain(message)}[/]")
        self.add_class("-wrong")

    def clear(self) -> None:
        """Nothing is wrong with it any more."""
        self.query_one(".origin", Static).update("")
        self.remove_class("-wrong")

    def take_focus(self) -> None:
        """Put the cursor here."""
        self.query("Input, Choice").first().focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Tell what was typed."""
        event.stop()
        if event.value.strip() != self._typed:
            self._typed = event.value.strip()
            self.post_message(self.Edited(self.spec, self._typed))

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Tell what was chosen."""
        event.stop()
        self._typed = event.value
        self.post_message(self.Edited(self.spec, event.value))


class Form(VerticalScroll, can_focus=False):
    """Fields, one below the other; up and down go from one to the next."""

    BINDINGS = FIELDS

    class Reached(Message):
        """The cursor came to a field."""

        def __init__(self, spec: Spec) -> None:
            super().__init__()
            self.spec = spec

    async def fill(self, specs: Sequence[Spec], values: dict[str, str], typed: dict[str, str]) -> None:
        """Replace all fields; the cursor stays at its key, if that is still there.

        Args:
            specs: the fields, those of a section together.
            values: dotted key -> what holds now.
            typed: dotted key -> what was typed.
        """
        at = next((field.spec.key for field in self.query(Field) if field.has_focus_within), "")
        widgets: list[Static | Field] = []
        section = ""
        for spec in specs:
            if spec.section != section:
                section = spec.section
                widgets.append(Static(section, classes="section", markup=False))
            widgets.append(Field(spec, values.get(spec.key, spec.default), typed.get(spec.key, "")))
        with self.app.batch_update():
            await self.remove_children()
            await self.mount_all(widgets)
        if (field := self.field(at)) is not None:
            field.take_focus()

    def field(self, key: str) -> Field | None:
        """The field of a key, None if there is none."""
        return next((field for field in self.query(Field) if field.spec.key == key), None)

    def reveal(self, rewards: Container[str]) -> None:
        """Show the options of these rewards, and of no others."""
        for field in self.query(Field):
            field.display = not field.spec.reward or field.spec.reward in rewards

    def show(self, holds: Mapping[str, tuple[str, str]], typed: Callable[[str], str]) -> None:
        """Show what holds now.

        Args:
            holds: dotted key -> its value as text, and where it comes from.
            typed: dotted key -> what was typed for it.
        """
        for field in self.query(Field):
            yours = typed(field.spec.key)
            value, origin = holds.get(field.spec.key, (yours or field.spec.default, ""))
            field.show(value, "yours" if yours else "" if origin == "flag" else origin)

    def refuse(self, key: str, message: str) -> bool:
        """Show what is wrong at a key's field, or at the first of a section; whether there is one."""
        for wrong in self.query(".-wrong").results(Field):
            wrong.clear()
        fields = list(self.query(Field))
        found = [field for field in fields if field.spec.key == key]
        found += [field for field in fields if key and field.spec.section == key]
        if found:
            found[0].refuse(message)
        return bool(found)

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Tell where the cursor is."""
        field = next((one for one in event.widget.ancestors if isinstance(one, Field)), None)
        if field is not None:
            self.post_message(self.Reached(field.spec))
