"""Every key that can be changed, and whether a new one would stand in another's way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import format_key
from textual.screen import ModalScreen, Screen

from mlx_align_tui.screens import PACKAGE, PLACES

OURS = "mlx_align_tui."
COMMON = "app"
"""The first part of ids that are meant on every screen."""


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
    found: dict[str, Key] = {}
    for owner in _ours(DOMNode):
        for binding in vars(owner).get("BINDINGS", ()):
            if isinstance(binding, Binding) and binding.id and binding.id not in found:
                found[binding.id] = Key(binding.id, binding.description or binding.action, binding.key, owner)
    return sorted(found.values(), key=lambda key: (key.group != COMMON, key.name))


def _ours(parent: type[DOMNode]) -> Iterator[type[DOMNode]]:
    for kind in parent.__subclasses__():
        if kind.__module__.startswith(OURS):
            yield kind
        yield from _ours(kind)


def shown(keys: str) -> str:
    """Keys as a person reads them."""
    return " ".join(dict.fromkeys(_name(key.strip()) for key in keys.split(",")))


def names(keys: str) -> set[str]:
    """The keys, each by one name however it was written."""
    return {_name(key.strip()) for key in keys.split(",") if key.strip()}


def _name(key: str) -> str:
    last = key.removeprefix("shift+")
    return last.upper() if key.startswith("shift+") and len(last) == 1 else format_key(key)


def pressed(key: str) -> str:
    """What is kept of a key that was pressed: capitals have two names, and terminals use either."""
    return f"{key},shift+{key.lower()}" if len(key) == 1 and key.isupper() else key


def in_the_way(key: Key, new: str, every: Sequence[Key], changed: Mapping[str, str]) -> Key | None:
    """The key that means something else already where this one is meant, None if there is none.

    Args:
        key: which is to be changed.
        new: the keys that it is to get.
        every: all keys.
        changed: binding id -> keys, of those that were changed.
    """
    wanted = names(new)
    others = (other for other in every if other.name != key.name and _together(key, other))
    return next((other for other in others if wanted & names(other.current(changed))), None)


def _together(one: Key, other: Key) -> bool:
    """Whether both can be meant at the same time: on one screen, or on every."""
    if one.group == other.group or issubclass(one.owner, other.owner) or issubclass(other.owner, one.owner):
        return True
    pair = (one.owner, other.owner)
    if any(issubclass(owner, ModalScreen) for owner in pair):
        return False
    if any(issubclass(owner, App) for owner in pair):
        return True
    # A widget may stand on any screen, so it has to leave alone what all screens share.
    widgets = [owner for owner in pair if not issubclass(owner, Screen)]
    return len(widgets) == 1 and COMMON in (one.group, other.group)
