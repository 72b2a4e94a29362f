"""Which models and which data can be chosen: what comes along, what was used before, what is on this disk."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from mlx_align import embedded
from mlx_align.data.columns import columns, kinds
from mlx_align.data.sources import data_files
from mlx_align.errors import DataError
from mlx_align.methods.base import RowKind
from mlx_align.paths import typed
from mlx_align_cli.display.text import clean
from mlx_align_tui.widgets.path_picker import PathPicker, is_data, is_model

DATA_SUFFIX = ".jsonl"
LISTED = 40
"""At most so many entries of one kind are listed."""
WANTED = {
    "model": (is_model, "A folder with config.json and *.safetensors."),
    "data": (is_data, "A .jsonl file, or a folder with train.jsonl."),
}
"""Kind -> which paths on this disk can be chosen, and the same in words."""


@dataclass(frozen=True)
class Source:
    """Something that can be chosen: its name or path, and a few words on it."""

    name: str
    about: str


def models(recent: Sequence[str]) -> list[Source]:
    """The embedded model, those used before, those of the catalog, and those in the hub's cache."""
    found = [Source(embedded.TINY_CHAT, "2.6 million parameters, comes with this program")]
    found += [Source(name, "used before") for name in recent]
    found += [Source(name, "has defaults of its own in the catalog") for name in embedded.catalog()]
    found += [Source(name, "in the Hugging Face cache") for name in cached_models()[:LISTED]]
    return _unique(found)


def cached_models() -> list[str]:
    """The models that the hub's cache has on this disk, without looking into them."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    try:
        names = sorted(entry.name for entry in cache.iterdir() if entry.name.startswith("models--"))
    except OSError:
        return []
    return [name.removeprefix("models--").replace("--", "/", 1) for name in names]


def data(recent: Sequence[str], here: Path) -> list[Source]:
    """The embedded sample, data used before, and files and folders in the folder one is in."""
    found = [Source(embedded.SAMPLE, "comes with this program, for every method")]
    found += [Source(name, "used before") for name in recent]
    try:
        entries = sorted(here.iterdir())
    except OSError:
        entries = []
    for entry in entries[: 10 * LISTED]:
        if entry.suffix == DATA_SUFFIX:
            found.append(Source(entry.name, "in this folder"))
        elif is_data(entry):
            found.append(Source(f"{entry.name}/", "a folder with train.jsonl"))
    return _unique(found)[:LISTED]


def kinds_of(name: str) -> tuple[RowKind, ...] | None:
    """The kinds of row that a file or folder has, by its columns; None where it cannot be read."""
    try:
        return kinds(columns(data_files(typed(name))[0]))
    except DataError:
        return None


def _unique(sources: Iterable[Source]) -> list[Source]:
    """Each name once, with what is said of it first."""
    first: dict[str, Source] = {}
    for source in sources:
        first.setdefault(source.name, source)
    return list(first.values())


class SourceStep(Vertical):
    """A name to type, and a list to choose from.

    Args:
        kind: "model" or "data".
        chosen: what is chosen now.
        placeholder: what can be typed.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "type", "Type", id="new.type", key_display="/"),
        Binding("b", "browse", "Browse", id="new.browse"),
    ]

    class Chosen(Message):
        """A source was chosen; `final` if the next step is to follow."""

        def __init__(self, kind: str, name: str, *, final: bool) -> None:
            super().__init__()
            self.kind, self.source, self.final = kind, name, final

    def __init__(self, kind: str, chosen: str, placeholder: str) -> None:
        super().__init__()
        self.kind, self._chosen, self._placeholder = kind, chosen, placeholder

    def compose(self) -> ComposeResult:
        """The field and the list."""
        field = Input(self._chosen, placeholder=self._placeholder, select_on_focus=False)
        field.border_title = self.kind
        yield field
        yield OptionList()

    def action_type(self) -> None:
        """Go to the field."""
        self.query_one(Input).focus()

    def action_browse(self) -> None:
        """Choose a file or folder on this disk."""
        wanted, hint = WANTED[self.kind]
        picker = PathPicker(f"Choose the {self.kind}", hint, Path.cwd(), wanted)
        self.app.push_screen(picker, lambda path: self.take(str(path), final=True) if path else None)

    def offer(self, sources: Sequence[Source]) -> None:
        """Fill the list."""
        options = self.query_one(OptionList)
        options.clear_options()
        width = max(len(source.name) for source in sources)
        for source in sources:
            text = Text(
                clean(source.name).ljust(min(width, 36)), style="bold", no_wrap=True, overflow="ellipsis"
            )
            options.add_option(Option(text.append(f"  {clean(source.about)}", style="not bold")))
        self._sources = list(sources)
        names = [source.name for source in sources]
        options.highlighted = names.index(self._chosen) if self._chosen in names else 0

    def take(self, name: str, *, final: bool) -> None:
        """Choose a name that came from elsewhere."""
        self._chosen = name
        with self.prevent(Input.Changed):
            self.query_one(Input).value = name
        self.post_message(self.Chosen(self.kind, name, final=final))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Choose from the list."""
        event.stop()
        self.take(self._sources[event.option_index].name, final=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Choose while one types."""
        event.stop()
        if event.value.strip() and event.value.strip() != self._chosen:
            self._chosen = event.value.strip()
            self.post_message(self.Chosen(self.kind, self._chosen, final=False))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Choose what was typed."""
        event.stop()
        if event.value.strip():
            self.take(event.value.strip(), final=True)
