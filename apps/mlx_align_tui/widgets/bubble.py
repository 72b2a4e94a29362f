"""One exchange of a chat: a question and the answers to it, side by side where there is room."""

from __future__ import annotations

from collections.abc import Callable

from textual import events
from textual.app import ComposeResult
from textual.containers import Container
from textual.message import Message
from textual.widgets import Static

from mlx_align.chat import Done
from mlx_align.errors import AlignError
from mlx_align_cli.display.text import clean
from mlx_align_cli.talk import Exchange
from mlx_align_tui.widgets.answer import Answer, Standing

Tell = Callable[[int, str | Done], None]
"""Takes a place, counted from the left, and more of its answer or the whole of it."""


class Bubble(Container):
    """A question and its answers, which it asks for in a thread once it is seen.

    Args:
        exchange: what was asked, and of whom.
        tuned: what the tuned model is called.
        ask: asks for the answers and tells them; returns what went wrong.
    """

    DEFAULT_CSS = """
    Bubble { height: auto; layout: vertical; margin-bottom: 1; }
    Bubble .asked { height: auto; padding: 0 1; color: $accent; text-style: bold; }
    Bubble .answers { height: auto; layout: vertical; }
    Bubble.-open Answer:hover { border: round $success; }
    """

    class Heard(Message, bubble=False):
        """More of an answer, or the whole of it."""

        def __init__(self, place: int, said: str | Done) -> None:
            super().__init__()
            self.place, self.said = place, said

    class Ended(Message):
        """All have answered, or something went wrong."""

        def __init__(self, error: AlignError | None) -> None:
            super().__init__()
            self.error = error

    class Preferred(Message):
        """An answer was clicked on while one can be chosen."""

        def __init__(self, place: int) -> None:
            super().__init__()
            self.place = place

    def __init__(self, exchange: Exchange, tuned: str, ask: Callable[[Tell], AlignError | None]) -> None:
        super().__init__()
        self.exchange = exchange
        self._tuned, self._ask = tuned, ask

    def compose(self) -> ComposeResult:
        """The question, and a frame for each answer."""
        yield Static(f"❯ {clean(self.exchange.question)}", classes="asked", markup=False)
        with Container(classes="answers"):
            for label in self._labels:
                yield Answer(label)

    def on_mount(self) -> None:
        """Ask."""
        self.run_worker(self._hear, thread=True, exit_on_error=False)

    def _hear(self) -> None:
        def tell(place: int, said: str | Done) -> None:
            self.post_message(self.Heard(place, said))

        error: AlignError | None = AlignError("the answer was lost; its engine may have failed")
        try:
            error = self._ask(tell)
        finally:  # whatever happens, nobody waits for ever
            self.post_message(self.Ended(error))

    @property
    def _labels(self) -> list[str]:
        return [self._tuned if label == "tuned" else label for label in self.exchange.labels]

    @property
    def answers(self) -> list[Answer]:
        """The answers, from left to right."""
        return list(self.query(Answer))

    def on_bubble_heard(self, event: Heard) -> None:
        """Show more of an answer."""
        if isinstance(event.said, Done):
            self.exchange.answers.append(event.said)
            self.answers[event.place].finish(event.said)
        else:
            self.answers[event.place].grow(event.said)

    def on_bubble_ended(self, event: Ended) -> None:
        """Say of answers that have not come that they will not."""
        for answer in self.answers[len(self.exchange.answers) :]:
            answer.abandon()

    def on_click(self, event: events.Click) -> None:
        """Choose the answer, unless text of it was selected."""
        if self.has_class("-open") and not self.screen.get_selected_text():
            for place, answer in enumerate(self.answers):
                if answer is event.widget:
                    self.post_message(self.Preferred(place))

    def settle(self) -> None:
        """Show the names as they may now be told, and which answer was better."""
        chosen = self.exchange.chosen
        for place, (answer, label) in enumerate(zip(self.answers, self._labels, strict=True)):
            standing: Standing = "" if chosen is None else "better" if place == chosen else "worse"
            answer.call(label, standing)
