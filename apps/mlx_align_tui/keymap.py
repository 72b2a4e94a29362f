"""The keys, as they are and as they are bound now; a text that names one has its id: `<<runs.stop>>`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from string import punctuation
from typing import TYPE_CHECKING, cast

from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.keys import format_key
from textual.screen import ModalScreen

from mlx_align_tui.plain import plain
from mlx_align_tui.screens import PACKAGE, PLACES

if TYPE_CHECKING:
    from mlx_align_tui.app import AlignApp

OURS = "mlx_align_tui."
COMMON = "app"
"""The first part of ids that are meant on every screen."""
ANSWERS: list[BindingType] = [
    Binding("left,up,h", "app.focus_previous", "Answer before", id="answers.before", show=False),
    Binding("right,down,l", "app.focus_next", "Next answer", id="answers.next", show=False),
]
"""Of questions with buttons."""
FIELDS: list[BindingType] = [
    Binding("up", "app.focus_previous", "Field before", id="form.before", show=False),
    Binding("down,enter", "app.focus_next", "Next field", id="form.next", show=False),
]
"""Of forms, and of whatever else has fields one below the other."""
UP_AND_DOWN: list[BindingType] = [
    Binding("j", "app.press('down')", "Down", id="vim.down", show=False),
    Binding("k", "app.press('up')", "Up", id="vim.up", show=False),
]
"""Of every screen and of dialogs with a list or a long text."""
MARK = re.compile(r"<<(\w+\.\w+)(!?)>>")
WORDS = {"enter": "enter", "backspace": "backspace"}
"""Keys whose sign is harder to read in a sentence than their name."""
FUNCTION = re.compile(r"f\d+")


@dataclass(frozen=True)
class Key:
    """What a key does, and which it is if nobody changes it.

    Args:
        name: the binding's id, such as "runs.stop".
        what: what it does.
        default: the keys, separated by commas.
        owner: the class that has it.
    """

    name: str
    what: str
    default: str
    owner: type[DOMNode]

    @property
    def group(self) -> str:
        """The part of the id before the dot."""
        return self.name.partition(".")[0]

    def current(self, changed: Mapping[str, str]) -> str:
        """The keys that it has now."""
        return changed.get(self.name, self.default)


def all_keys() -> list[Key]:
    """The keys of all screens and of the widgets on them, once each, sorted by id."""
    for place in PLACES.values():
        import_module(f"{PACKAGE}.{place.screen.partition(':')[0]}")
    for module in ("help", "jump", "quit"):
        import_module(f"{PACKAGE}.{module}")
    return sorted(_loaded().values(), key=lambda key: (key.group != COMMON, key.name))


def _loaded() -> dict[str, Key]:
    found: dict[str, Key] = {}
    dialogs_last = sorted(_ours(DOMNode), key=lambda owner: issubclass(owner, ModalScreen))  # these borrow
    for owner in dialogs_last:
        for name, binding in ids_of(owner).items():
            found.setdefault(name, Key(name, binding.description or binding.action, binding.key, owner))
    return found


def ids_of(owner: type) -> dict[str, Binding]:
    """What a class itself binds, by id."""
    bindings = vars(owner).get("BINDINGS", ())
    return {each.id: each for each in bindings if isinstance(each, Binding) and each.id}


def _ours(parent: type[DOMNode]) -> Iterator[type[DOMNode]]:
    for kind in parent.__subclasses__():
        if kind.__module__.startswith(OURS):
            yield kind
        yield from _ours(kind)


def shown(keys: str) -> str:
    """Keys as a person reads them."""
    return " ".join(dict.fromkeys(name_of(key.strip()) for key in keys.split(",")))


def name_of(key: str) -> str:
    """A key's one name, however it was written."""
    last = key.removeprefix("shift+")
    return last.upper() if key.startswith("shift+") and len(last) == 1 else format_key(key)


def said(text: str, changed: Mapping[str, str], quote: Callable[[str], str] = plain) -> str:
    """A text with the keys that are bound now where their ids stand.

    Args:
        text: it has `<<runs.stop>>` where a key is to be named, `<<app.help!>>` for one that is no letter or
            sign, where these are typed.
        changed: binding id -> keys, of those that were changed.
        quote: makes a key's name plain text in the text's markup.
    """
    keys = _loaded() if MARK.search(text) else {}

    def name(found: re.Match[str]) -> str:
        if found[1] not in keys:  # somebody's own text
            return found[0]
        bound = [key.strip() for key in keys[found[1]].current(changed).split(",")]
        typed = [key for key in bound if len(name_of(key)) == 1] if found[2] else []
        first = next((key for key in bound if key not in typed), bound[0])
        key = WORDS.get(first) or name_of(first)
        return quote(key.upper() if FUNCTION.fullmatch(key) else key)

    return MARK.sub(name, text)


def keyed(node: DOMNode, text: str) -> str:
    """A text in Textual markup with the keys that are bound now in a node's app; see `said`."""
    return said(text, cast("AlignApp", node.app).settings.keys)


def in_markdown(key: str) -> str:
    """A key's name as plain text in Markdown."""
    return "".join(f"\\{letter}" if letter in punctuation else letter for letter in key)
