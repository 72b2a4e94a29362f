"""A chat in the terminal: lines in, answers out. What a line means is here, what it changes in `talk`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import SystemRandom
from types import FrameType

from rich.console import Console

from mlx_align.chat import Chat, Done, Voice
from mlx_align.errors import AlignError, DataError, DeviceAbortError, UsageError
from mlx_align.preferences import keep
from mlx_align_cli import errors
from mlx_align_cli.display.text import plural
from mlx_align_cli.display.voices import stage
from mlx_align_cli.talk import PLACES, Exchange, Talk

HELP = {
    "/left, /right": "that answer is the better one: keep the pair, and go on from it",
    "/retry": "ask again with the next seed",
    "/new": "begin a new conversation",
    "/system TEXT": "set the system message; without TEXT, remove it",
    "/seed N": "set the seed",
    "/temperature X": "0 always takes the likeliest token",
    "/help": "this list",
    "/quit": "leave; so do /exit, /bye, Ctrl-D and Ctrl-C twice",
}
LEAVE = ("/quit", "/exit", "/bye")
INTERRUPTED = 130


@dataclass
class Options:
    """What was asked for on the command line.

    Attributes:
        order: who answers, from left to right.
        blind: shuffle them for every question, and hide their names until one is chosen.
        save: where pairs are kept.
        max_tokens, temperature, top_p: as in `Chat.ask`.
    """

    order: tuple[Voice, ...]
    blind: bool
    save: Path
    max_tokens: int
    temperature: float
    top_p: float


class Repl:
    """Reads lines until there are no more.

    Args:
        chat: who answers.
        talk: the conversation.
        options: how it is led.
        console: where answers go.
        interactive: whether a person types; then mistakes are told and the chat goes on.
    """

    def __init__(self, chat: Chat, talk: Talk, options: Options, console: Console, interactive: bool) -> None:
        self._chat, self._talk, self._options, self._console = chat, talk, options, console
        self._interactive = interactive
        self._commands: dict[str, Callable[[str], None]] = {
            "/left": lambda _: self._choose(0),
            "/right": lambda _: self._choose(1),
            "/retry": lambda _: self._retry(),
            "/new": lambda _: self._forget(),
            "/system": self._system,
            "/seed": self._seed,
            "/temperature": self._temperature,
            "/help": lambda _: self._help(),
        }

    def run(self) -> int:
        """Obey every line; returns the exit code.

        Raises:
            AlignError: the engine died; where nobody types, any mistake.
        """
        try:
            for line in self._typed() if self._interactive else _piped():
                if line.strip() in LEAVE:
                    return 0
                self._obey(line.strip())
            return 0
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            self._sum_up()

    def _obey(self, line: str) -> None:
        try:
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line:
                self._ask(line.removeprefix("/"))
        except DeviceAbortError:
            raise
        except AlignError as error:
            if not self._interactive:
                raise
            errors.tell(error)

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        command = self._commands.get(name)
        if command is None:
            hint = "/help lists them. A question may begin with // instead of /."
            raise UsageError(f"there is no command {name}", hint=hint)
        command(argument.strip())

    # Asking

    def _ask(self, question: str) -> None:
        self._talk.ask(self._exchange(question))
        self._answer()

    def _retry(self) -> None:
        last = self._talk.last
        if last is None:
            raise UsageError("nothing has been asked yet")
        if self._options.temperature == 0 and last.whole:
            hint = "/temperature 0.7 makes it count."
            raise UsageError("the temperature is 0, so another seed changes nothing", hint=hint)
        self._talk.seed += 1
        self._talk.last = self._exchange(last.question)
        self._answer()

    def _exchange(self, question: str) -> Exchange:
        order = list(self._options.order)
        if self._options.blind:
            SystemRandom().shuffle(order)
        return Exchange(question, tuple(order), hidden=self._options.blind)

    def _answer(self) -> None:
        exchange, options = self._talk.last, self._options
        assert exchange is not None  # noqa: S101  (it has just been made)
        with stage(self._console, exchange.headings) as shown, _counting(self._interactive) as interrupted:
            for place, who in enumerate(exchange.order):
                coming = self._chat.ask(
                    who,
                    self._talk.prompt,
                    max_tokens=options.max_tokens,
                    temperature=options.temperature,
                    top_p=options.top_p,
                    seed=self._talk.seed,
                )
                cancelled = False
                for said in coming:
                    if isinstance(said, Done):
                        exchange.answers.append(said)
                        shown.done(place, said)
                        continue
                    shown.token(place, said.text)
                    if interrupted() and not cancelled:
                        self._chat.cancel()
                        cancelled = True
                if interrupted():
                    return

    # Commands

    def _choose(self, place: int) -> None:
        better, worse = self._talk.pair(place)
        path = self._options.save
        number = keep(path, [turn.model_dump() for turn in self._talk.prompt], better.text, worse.text)
        voice = self._talk.choose(place)
        self._note(f"{PLACES[place]}, the {voice} answer, is better: line {number} of {path}")

    def _forget(self) -> None:
        self._talk.forget()
        self._note("a new conversation begins")

    def _system(self, text: str) -> None:
        self._talk.settle()  # what has been answered had the old one
        self._talk.system = text or None
        self._note("the system message is set" if text else "there is no system message now")

    def _seed(self, text: str) -> None:
        if not text.isascii() or not text.isdigit():
            raise UsageError("a seed is a whole number", where="/seed", hint="For example: /seed 7")
        self._talk.seed = int(text)
        self._note(f"the seed is {self._talk.seed}")

    def _temperature(self, text: str) -> None:
        with suppress(ValueError):
            if 0 <= (value := float(text)) < float("inf"):
                self._options.temperature = value
                self._note(f"the temperature is {value:g}")
                return
        raise UsageError(
            "a temperature is a number from 0", where="/temperature", hint="For example: /temperature 0.7"
        )

    def _help(self) -> None:
        for name, meaning in HELP.items():
            self._note(f"{name:<15} {meaning}")

    # Lines

    def _typed(self) -> Iterator[str]:
        with suppress(ImportError):
            import readline  # noqa: F401  (input() then has a history and can be edited)
        pressed = False
        while True:
            try:
                line = input("> ")
            except EOFError:
                self._note("")
                return
            except KeyboardInterrupt:
                self._note("")
                if pressed:
                    raise
                pressed = True
                self._note("Ctrl-C again leaves")
                continue
            pressed = False
            yield _encodable(line)

    def _note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def _sum_up(self) -> None:
        kept = self._talk.kept
        if total := sum(kept.values()):
            where = f"{plural(total, 'pair')} kept in {self._options.save}"
            self._note(f"{where}; the tuned answer was the better one in {kept['tuned']}")


def _piped() -> Iterator[str]:
    try:
        for line in sys.stdin:
            yield _encodable(line)
    except UnicodeDecodeError:
        raise DataError("the input is not UTF-8 text", where="stdin") from None


def _encodable(line: str) -> str:
    """A line without what a terminal or a pipe sent that is no character."""
    return line.encode(errors="replace").decode()


@contextmanager
def _counting(interactive: bool) -> Iterator[Callable[[], bool]]:
    """As long as this lasts the first Ctrl-C is only noticed; the block is given a way to ask for it.

    Raises:
        KeyboardInterrupt: a second one has come, or nobody types.
    """
    count = 0

    def count_one(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt

    if not interactive:
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, count_one)
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, before)
