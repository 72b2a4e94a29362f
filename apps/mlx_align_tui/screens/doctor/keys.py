"""Whether a new key would stand in another's way."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType

from textual.app import App
from textual.screen import ModalScreen, Screen
from textual.widget import Widget

from mlx_align_tui.keymap import COMMON, OURS, Key, name_of

SCREENS = f"{OURS}screens."


def names(keys: str) -> set[str]:
    """The keys, each by one name however it was written."""
    return {name_of(key.strip()) for key in keys.split(",") if key.strip()}


def pressed(key: str) -> str:
    """What is kept of a key that was pressed: capitals have two names, and terminals use either."""
    return f"{key},shift+{key.lower()}" if len(key) == 1 and key.isupper() else key


def in_the_way(key: Key, new: str, every: Sequence[Key], changed: Mapping[str, str]) -> Key | None:
    """The key that means something else already where this one is meant, None if there is none.

    What two keys share that nobody has changed is meant so: a widget may take from its screen what it needs.

    Args:
        key: which is to be changed.
        new: the keys that it is to get.
        every: all keys.
        changed: binding id -> keys, of those that were changed.
    """
    wanted, own = names(new), names(key.default)
    for other in every:
        if other.name == key.name or not _together(key, other):
            continue
        taken = wanted & names(other.current(changed))
        if taken - (own & names(other.default)):
            return other
    return None


def _together(one: Key, other: Key) -> bool:
    """Whether both can be meant at the same time: on one screen, or on every."""
    if one.group == other.group or issubclass(one.owner, other.owner) or issubclass(other.owner, one.owner):
        return True
    pair = (one.owner, other.owner)
    if any(issubclass(owner, ModalScreen) for owner in pair):
        return False
    if any(issubclass(owner, App) for owner in pair):
        return True
    if all(issubclass(owner, Screen) for owner in pair):
        return False
    return bool(_places(one.owner) & _places(other.owner)) or COMMON in (one.group, other.group)


@cache
def _places(owner: type) -> frozenset[str]:
    """The screens that use a class, or a widget in whose module it is used; by their modules' names."""
    found, seen, waiting = set[str](), set[type](), [owner]
    while waiting:
        seen.add(kind := waiting.pop())
        for name, module in sorted(sys.modules.items()):
            if name.startswith(OURS) and any(value is kind for value in vars(module).values()):
                if name.startswith(SCREENS):
                    found.add(name.removeprefix(SCREENS).partition(".")[0].removesuffix("_parts"))
                waiting += [widget for widget in _widgets(module) if widget not in seen]
    return frozenset(found)


def _widgets(module: ModuleType) -> list[type]:
    """Those that a module defines, without screens: these are gone to from anywhere."""
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return [
        c
        for c in classes
        if c.__module__ == module.__name__ and issubclass(c, Widget) and not issubclass(c, Screen)
    ]
