"""A conversation with a model, or with two of them side by side: what has been said, and what was better.

Pure state, no terminal. An exchange is a question and its answers; it belongs to the history once the next
question is asked, because until then a person may still say which answer goes on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mlx_align.chat import Done, Turn, Voice
from mlx_align.errors import DataError, UsageError

PLACES = ("left", "right")


@dataclass
class Exchange:
    """A question and what was answered.

    Attributes:
        question: what the user said.
        order: who answers, from left to right.
        hidden: whether the names are not told before one is chosen.
        answers: those that have come, by `order`.
        chosen: the better one's place, once a person has said so.
    """

    question: str
    order: tuple[Voice, ...]
    hidden: bool = False
    answers: list[Done] = field(default_factory=list)
    chosen: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What stands above each answer."""
        return PLACES if self.hidden and self.chosen is None else self.order

    @property
    def headings(self) -> tuple[str, ...]:
        """As `labels`, with the place, for where two answers may stand one below the other."""
        if len(self.order) < 2 or self.labels == PLACES:
            return self.labels
        return tuple(f"{place}, {who}" for place, who in zip(PLACES, self.order, strict=True))

    @property
    def whole(self) -> bool:
        """Whether all have answered, and to the end."""
        return len(self.answers) == len(self.order) and not any(done.cancelled for done in self.answers)

    @property
    def outcome(self) -> str:
        """The answer that goes on: the chosen one, else the tuned model's, else the only one; "" if none."""
        if self.chosen is not None:
            return self.answers[self.chosen].text
        said = dict(zip(self.order, self.answers, strict=False))
        wanted = said.get("tuned") if "tuned" in self.order else said.get("base")
        return wanted.text if wanted else ""


@dataclass
class Talk:
    """A conversation.

    Attributes:
        system: the system message, if there is one.
        seed: seeds every answer.
        history: what has been said before the last exchange.
        last: the last exchange, which may still be changed.
        kept: how often each voice's answer was the better one.
    """

    system: str | None = None
    seed: int = 0
    history: list[Turn] = field(default_factory=list)
    last: Exchange | None = None
    kept: Counter[Voice] = field(default_factory=Counter)

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """What is answered: system message, history and the last question."""
        system = (Turn(role="system", content=self.system),) if self.system else ()
        asked = (Turn(role="user", content=self.last.question),) if self.last else ()
        return (*system, *self.history, *asked)

    def ask(self, exchange: Exchange) -> None:
        """Begin a new exchange; the one before it becomes history, unless it has no answer."""
        self.settle()
        self.last = exchange

    def settle(self) -> None:
        """Make the last exchange history."""
        if self.last is not None and self.last.outcome:
            self.history.append(Turn(role="user", content=self.last.question))
            self.history.append(Turn(role="assistant", content=self.last.outcome))
        self.last = None

    def forget(self) -> None:
        """Begin anew; the system message stays."""
        self.history, self.last = [], None

    def pair(self, place: int) -> tuple[Done, Done]:
        """The better and the worse answer of the last exchange.

        Raises:
            UsageError: there are not two whole answers to choose from, or one was chosen already.
            DataError: nothing may be learnt from them.
        """
        last = self.last
        if last is None or len(last.order) < 2:
            raise UsageError("there are no two answers to choose from", hint="It needs --compare base.")
        if last.chosen is not None:
            raise UsageError("this pair has been kept already", hint="Ask something else, or /retry.")
        if not last.whole:
            raise UsageError(
                "an answer was stopped, so the two cannot be compared", hint="/retry asks again."
            )
        better, worse = last.answers[place], last.answers[1 - place]
        if special := better.special or worse.special:
            raise DataError(
                f"the pair is not kept: '{special}' stands in the conversation",
                hint="Training refuses text that the tokenizer would read as a special token.",
            )
        return better, worse

    def choose(self, place: int) -> Voice:
        """Say that the answer at this place is the better one; returns whose it is."""
        assert self.last is not None  # noqa: S101  (`pair` has been asked)
        self.last.chosen = place
        voice = self.last.order[place]
        self.kept[voice] += 1
        return voice
