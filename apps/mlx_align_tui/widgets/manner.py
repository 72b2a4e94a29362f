"""How a chat is led: one line of settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from secrets import SystemRandom

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Static

from mlx_align.chat import Voice
from mlx_align_cli.talk import Exchange
from mlx_align_tui.live.talking import Manner
from mlx_align_tui.settings import Chatting
from mlx_align_tui.widgets.choice import Choice

OPEN, BLIND = "named", "blind"
LEAST = {"temperature": 0.0, "seed": 0.0, "tokens": 1.0}
"""The least value of each number."""


class MannerRow(Horizontal):
    """System message, temperature, seed, longest answer, and whether the voices are named.

    Args:
        last: how it was asked last time.
    """

    def __init__(self, last: Chatting, *, id: str | None = None) -> None:  # noqa: A002  (Textual's own name)
        super().__init__(id=id)
        self._last = last

    def compose(self) -> ComposeResult:
        """A name and a field each."""
        yield Static("system", classes="name")
        yield Input(id="system", compact=True, placeholder="none", select_on_focus=False)
        for name, label, value in (
            ("temperature", "temp", f"{self._last.temperature:g}"),
            ("seed", "seed", "0"),
            ("tokens", "tokens", str(self._last.max_tokens)),
        ):
            yield Static(label, classes="name")
            yield Input(
                value,
                type="number" if name == "temperature" else "integer",
                id=name,
                compact=True,
                select_on_focus=False,
            )
        yield Choice((OPEN, BLIND), BLIND if self._last.blind else OPEN, id="blind")

    @property
    def system(self) -> str | None:
        """The system message, None for none."""
        return self.query_one("#system", Input).value.strip() or None

    @property
    def blind(self) -> bool:
        """Whether names are hidden until an answer is chosen."""
        return self.query_one("#blind", Choice).value == BLIND

    def exchange(self, question: str, voices: Sequence[Voice]) -> Exchange:
        """A question to these voices: in their order, or in a random one where names are hidden."""
        order = list(voices)
        if self.blind:
            SystemRandom().shuffle(order)
        return Exchange(question, tuple(order), hidden=self.blind)

    def toggle_blind(self) -> None:
        """Hide the names, or show them."""
        self.query_one("#blind", Choice).action_step(1)

    def reseed(self, seed: int) -> None:
        """Show another seed."""
        self.query_one("#seed", Input).value = str(seed)

    def read(self) -> Manner | None:
        """What is set; None if a number cannot be, which is then told."""
        values = {name: self._number(name) for name in LEAST}
        for name, value in values.items():
            field = self.query_one(f"#{name}", Input)
            wrong = not LEAST[name] <= value < math.inf
            field.set_class(wrong, "-wrong")
            if wrong:
                field.focus()
                said = f"{name}: a number from {LEAST[name]:g}"
                self.app.notify(said, title="That cannot be", severity="error", markup=False)
                return None
        return Manner(int(values["tokens"]), values["temperature"], int(values["seed"]))

    def _number(self, name: str) -> float:
        try:
            return float(self.query_one(f"#{name}", Input).value)
        except ValueError:
            return math.nan
