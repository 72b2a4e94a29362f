"""One exchange of a chat: a question and the answers to it, side by side where there is room."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Container
from textual.widgets import Static

from mlx_align.chat import Done
from mlx_align_cli.display.text import clean
from mlx_align_cli.talk import Exchange
from mlx_align_tui.widgets.answer import Answer


class Bubble(Container):
    """A question and its answers.

    Args:
        exchange: what was asked, and of whom.
    """

    DEFAULT_CSS = """
    Bubble { height: auto; layout: vertical; margin-bottom: 1; }
    Bubble .asked { height: auto; padding: 0 1; color: $accent; text-style: bold; }
    Bubble .answers { height: auto; layout: vertical; }
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self.exchange = exchange

    def compose(self) -> ComposeResult:
        """The question, and a frame for each answer."""
        yield Static(f"❯ {clean(self.exchange.question)}", classes="asked", markup=False)
        with Container(classes="answers"):
            for label in self.exchange.labels:
                yield Answer(label)

    def answer(self, place: int) -> Answer:
        """The answer at this place, counted from the left."""
        return list(self.query(Answer))[place]

    def finish(self, place: int, done: Done) -> None:
        """Take a whole answer."""
        self.exchange.answers.append(done)
        self.answer(place).finish(done)

    def abandon(self) -> None:
        """Say of answers that have not come that they will not."""
        for answer in list(self.query(Answer))[len(self.exchange.answers) :]:
            answer.abandon()

    def settle(self) -> None:
        """Show the names as they may now be told, and which answer was better."""
        chosen = self.exchange.chosen
        for place, label in enumerate(self.exchange.labels):
            standing = "" if chosen is None else "better" if place == chosen else "worse"
            self.answer(place).call(label, standing)  # type: ignore[arg-type]
