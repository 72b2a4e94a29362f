"""The line in which one asks."""

from __future__ import annotations

from typing import ClassVar, Protocol, cast

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import Input

CHOOSING: list[BindingType] = [
    Binding("less_than_sign,ctrl+left", "choose(0)", "Left better", id="chat.left", key_display="<"),
    Binding("greater_than_sign,ctrl+right", "choose(1)", "Right better", id="chat.right", key_display=">"),
]


class Chooser(Protocol):
    """A screen with two answers to choose from."""

    @property
    def choosable(self) -> bool:
        """Whether there are two whole answers."""

    def action_choose(self, place: int) -> None:
        """Say that the answer at this place is the better one."""


class Question(Input):
    """Where one types. As long as it is empty, < and > and ctrl with an arrow choose between the answers."""

    BINDINGS: ClassVar[list[BindingType]] = CHOOSING

    @property
    def _chooser(self) -> Chooser:
        return cast("Chooser", self.screen)

    @property
    def _chooses(self) -> bool:
        return not self.value and self._chooser.choosable

    def check_consume_key(self, key: str, character: str | None = None) -> bool:
        """Whether a key is text here."""
        chosen = self._chooses and character in ("<", ">")
        return not chosen and super().check_consume_key(key, character)

    async def _on_key(self, event: events.Key) -> None:
        if self._chooses and event.character in ("<", ">"):
            event.stop()
            event.prevent_default()
            self.action_choose("<>".index(event.character))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Arrows move by words where there are words."""
        return self._chooses if action == "choose" else True

    def action_choose(self, place: int) -> None:
        """Say which answer is better."""
        self._chooser.action_choose(place)
