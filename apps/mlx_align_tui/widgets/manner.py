"""How a chat is led: one line of settings."""

from __future__ import annotations

import math

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Static

from mlx_align_tui.live.talking import Manner
from mlx_align_tui.widgets.choice import Choice

OPEN, BLIND = "named", "blind"
LEAST = {"temperature": 0.0, "seed": 0.0, "tokens": 1.0}
"""The least value of each number."""


class MannerRow(Horizontal):
    """System message, temperature, seed, longest answer, and whether the voices are named."""

    def compose(self) -> ComposeResult:
        """A name and a field each."""
        yield Static("system", classes="name")
        yield Input(id="system", compact=True, placeholder="none", select_on_focus=False)
        for name, label, value in (
            ("temperature", "temp", "0.7"),
            ("seed", "seed", "0"),
            ("tokens", "tokens", "256"),
        ):
            yield Static(label, classes="name")
            yield Input(
                value,
                type="number" if name == "temperature" else "integer",
                id=name,
                compact=True,
                select_on_focus=False,
            )
        yield Choice((OPEN, BLIND), OPEN, id="blind")

    @property
    def system(self) -> str | None:
        """The system message, None for none."""
        return self.query_one("#system", Input).value.strip() or None

    @property
    def blind(self) -> bool:
        """Whether names are hidden until an answer is chosen."""
        return self.query_one("#blind", Choice).value == BLIND

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
                self.app.notify(
                    f"{name}: a number from {LEAST[name]:g}", title="That cannot be", severity="error"
                )
                return None
        return Manner(int(values["tokens"]), values["temperature"], int(values["seed"]))

    def _number(self, name: str) -> float:
        try:
            return float(self.query_one(f"#{name}", Input).value)
        except ValueError:
            return math.nan
