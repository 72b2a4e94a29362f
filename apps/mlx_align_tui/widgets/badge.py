"""How a run's state is coloured and marked: the same everywhere, and readable without colour."""

from __future__ import annotations

CONDITIONS: dict[str, tuple[str, str]] = {
    "new": ("○", "$quiet"),
    "running": ("▶", "$primary"),
    "finished": ("✔", "$success"),
    "stopped": ("■", "$warning"),
    "failed": ("✘", "$error"),
    "crashed": ("✘", "$error"),
    "unreadable": ("?", "$error"),
}
"""Condition -> its sign and its colour, as a variable of the theme."""


def sign(condition: str) -> str:
    """A condition's sign alone."""
    return CONDITIONS.get(condition, ("·", ""))[0]


def colour(condition: str, variables: dict[str, str]) -> str:
    """A condition's colour under a theme's variables, for Rich text."""
    return variables.get(CONDITIONS.get(condition, ("", "$foreground"))[1].removeprefix("$"), "")
