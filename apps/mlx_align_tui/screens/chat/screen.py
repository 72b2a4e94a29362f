"""Chat: the model before and after its run, side by side, and pairs made of what they answer."""

from __future__ import annotations

from secrets import SystemRandom
from typing import ClassVar

from rich.markup import escape
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Input, ProgressBar, Static

from mlx_align.chat import Done, Hello, Turn, Voice
from mlx_align.errors import AlignError, DataError, UsageError
from mlx_align.runs import RunDirectory
from mlx_align_cli.commands.chat import FILE
from mlx_align_cli.display.listing import short_name
from mlx_align_cli.display.text import plural
from mlx_align_cli.talk import Exchange, Talk
from mlx_align_tui.live.talking import Manner, Partner, going_on
from mlx_align_tui.screens import PLACES
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.chat import texts
from mlx_align_tui.widgets.bubble import Bubble
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.manner import MannerRow
from mlx_align_tui.widgets.question import CHOOSING, Question

HARMLESS = (DataError, UsageError)
"""Errors about a question; after any other the engine is gone."""


class ChatScreen(AlignScreen):
    """Talks to a run's model and to its base.

    Args:
        run: the run.
    """

    crumb = "Chat"
    help_text = texts.HELP
    AUTO_FOCUS = "#question"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  (as Textual declares it)
    BINDINGS: ClassVar[list[BindingType]] = [
        *CHOOSING,
        Binding("enter,i", "write", "Write", id="chat.write", show=False),
        Binding("ctrl+r", "retry", "Again", id="chat.retry"),
        Binding("ctrl+b", "blind", "Blind", id="chat.blind"),
        Binding("ctrl+n", "new", "New", id="chat.new"),
        Binding("ctrl+t", "train", "Train on pairs", id="chat.train"),
        Binding("f5", "start", "Start again", id="chat.start"),
        Binding("pageup", "page(-1)", "Page up", id="chat.page_up", show=False),
        Binding("pagedown", "page(1)", "Page down", id="chat.page_down", show=False),
    ]

    class Opened(Message):
        """The model is loaded, or cannot be."""

        def __init__(self, what: tuple[Hello, int] | AlignError) -> None:
            super().__init__()
            self.what = what

    class Heard(Message):
        """More of the answer at a place, or the whole of it."""

        def __init__(self, exchange: Bubble, place: int, said: str | Done) -> None:
            super().__init__()
            self.exchange, self.place, self.said = exchange, place, said

    class Ended(Message):
        """All have answered, or something went wrong."""

        def __init__(self, error: AlignError | None) -> None:
            super().__init__()
            self.error = error

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run_directory = run
        self.pairs_file = run.path / FILE
        self.talk, self.partner = Talk(), Partner()
        self.order: tuple[Voice, ...] = ()
        self.busy, self.pairs = False, 0

    def body(self) -> ComposeResult:
        """How to answer, what was said, and where one types."""
        yield MannerRow(id="manner")
        yield Static(id="notice")
        yield ProgressBar(total=None, show_eta=False, show_percentage=False, id="loading")
        with VerticalScroll(id="conversation", can_focus=True):
            yield Static(texts.EMPTY, id="empty")
        yield Question(placeholder="ask something", id="question", select_on_focus=False)

    def on_mount(self) -> None:
        """Begin to load."""
        self.query_one("#conversation", VerticalScroll).anchor()
        self.action_start()

    def on_unmount(self) -> None:
        """End the engine."""
        self.partner.close()

    # Loading

    def action_start(self) -> None:
        """Load the model, for the first time or again after it was lost."""
        self.order, self.busy = (), False
        self.query_one("#loading").display = True
        self._notice("[$quiet]loading the model, in a process of its own ...[/]")
        self.run_worker(self._open, thread=True, group="open", exclusive=True, exit_on_error=False)

    def _open(self) -> None:
        from mlx_align.preferences import count

        try:
            what: tuple[Hello, int] | AlignError = (
                self.partner.open(self.run_directory),
                count(self.pairs_file),
            )
        except AlignError as error:
            what = error
        except (OSError, ValueError) as error:  # ValueError: its pipes were closed while it loaded
            what = AlignError(str(error), where=self.run_directory.name)
        self.post_message(self.Opened(what))

    def on_chat_screen_opened(self, event: Opened) -> None:
        """Let the person ask."""
        if isinstance(event.what, AlignError):
            self._lost(event.what)
            return
        hello, self.pairs = event.what
        self.order = ("base", "tuned") if len(hello.voices) > 1 else hello.voices
        self.query_one("#loading").display = False
        self._notice("\n".join(f"[$quiet]{escape(note)}[/]" for note in hello.notes))
        self._say()

    def _lost(self, error: AlignError) -> None:
        self.order, self.busy = (), False
        self.query_one("#loading").display = False
        self._notice(texts.lost(error))
        self._say()

    def _notice(self, text: str) -> None:
        notice = self.query_one("#notice", Static)
        notice.update(text)
        notice.display = bool(text)
        self.refresh_bindings()

    def _say(self) -> None:
        blind = self.query_one(MannerRow).blind
        words = ["[$primary]answering[/]"] if self.busy else []
        words += ["[$accent]blind[/]"] if blind else []
        words += [f"{plural(self.pairs, 'pair')} kept"] if self.pairs else []
        name = self.run_directory.name
        detail = name if self.size.width >= 100 else short_name(name)
        self.say_where(detail, f"[$quiet]{' · '.join(words)}[/]")
        self.refresh_bindings()

    # Asking

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ask; in a setting, go to the question."""
        question = self.query_one(Question)
        if event.input is not question:
            question.focus()
        elif event.value.strip() and not self.busy:
            self._ask(event.value.strip())

    def _ask(self, question: str) -> None:
        if not self.order:
            self.notify("The model is not loaded yet.", severity="warning")
            return
        manner = self.query_one(MannerRow).read()
        if manner is None:
            return
        system = self.query_one(MannerRow).system
        if system != self.talk.system:
            self.talk.settle()  # what has been answered had the old one
            self.talk.system = system
        exchange = self._exchange(question)
        self.talk.ask(exchange)
        self.query_one(Question).value = ""
        self._answer(exchange, manner)

    def _exchange(self, question: str) -> Exchange:
        blind = self.query_one(MannerRow).blind
        order = list(self.order)
        if blind:
            SystemRandom().shuffle(order)
        return Exchange(question, tuple(order), hidden=blind)

    def _answer(self, exchange: Exchange, manner: Manner) -> None:
        bubble = Bubble(exchange)
        self.query_one("#empty").display = False
        conversation = self.query_one("#conversation", VerticalScroll)
        conversation.mount(bubble)
        conversation.anchor()
        self.busy = True
        self.partner.begin()
        self._say()
        prompt = self.talk.prompt
        self.run_worker(
            lambda: self._hear(bubble, prompt, manner), thread=True, group="ask", exit_on_error=False
        )

    def _hear(self, bubble: Bubble, prompt: tuple[Turn, ...], manner: Manner) -> None:
        def told(place: int, said: str | Done) -> None:
            self.post_message(self.Heard(bubble, place, said))

        self.post_message(self.Ended(self.partner.answer(bubble.exchange.order, prompt, manner, told)))

    def on_chat_screen_heard(self, event: Heard) -> None:
        """Show more of an answer."""
        if isinstance(event.said, Done):
            event.exchange.finish(event.place, event.said)
        else:
            event.exchange.answer(event.place).grow(event.said)

    def on_chat_screen_ended(self, event: Ended) -> None:
        """Let the person choose, or ask again."""
        self.busy = False
        list(self.query(Bubble))[-1].abandon()
        if event.error is not None and not isinstance(event.error, HARMLESS):
            self._lost(event.error)
        elif event.error is not None:
            self.app.tell(event.error)
        self._say()

    # What can be done

    @property
    def choosable(self) -> bool:
        """Whether there are two whole answers to choose from."""
        last = self.talk.last
        return (
            last is not None
            and last.chosen is None
            and len(last.order) == len(last.answers) == 2
            and not any(answer.cancelled for answer in last.answers)
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done now is offered."""
        lost = not self.order and not (self.is_mounted and self.query_one("#loading").display)
        can = {
            "choose": self.choosable,
            "retry": self.talk.last is not None and bool(self.order) and not self.busy,
            "blind": len(self.order) > 1,
            "new": not self.busy and bool(self.talk.last or self.talk.history),
            "train": self.pairs > 0 and "new_run" in PLACES,
            "start": lost,
        }
        return can.get(action, True)

    def action_choose(self, place: int) -> None:
        """Keep a pair, in which the answer at this place is the better one."""
        from mlx_align.preferences import keep

        try:
            better, worse = self.talk.pair(place)
        except AlignError as error:
            self.app.tell(error)
            return
        prompt = [turn.model_dump() for turn in self.talk.prompt]
        bubble = list(self.query(Bubble))[-1]

        def kept(number: int) -> None:
            self.pairs = number
            voice = self.talk.choose(place)
            bubble.settle()
            self.notify(f"The {voice} answer is better: pair {number} of {self.pairs_file.name}")
            self._say()

        self.work(lambda: keep(self.pairs_file, prompt, better.text, worse.text), kept, group="keep")

    def action_retry(self) -> None:
        """Ask the last question again with the next seed."""
        manner, last = self.query_one(MannerRow).read(), self.talk.last
        if manner is None or last is None:
            return
        if manner.temperature == 0:
            self.notify("At temperature 0 another seed changes nothing; 0.7 is lively.", severity="warning")
            return
        self.query_one(MannerRow).reseed(manner.seed + 1)
        self.talk.last = self._exchange(last.question)
        self._answer(self.talk.last, Manner(manner.max_tokens, manner.temperature, manner.seed + 1))

    def action_blind(self) -> None:
        """Hide the names, or show them, from the next question on."""
        self.query_one(MannerRow).toggle_blind()

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Say it at the top."""
        self._say()

    async def action_new(self) -> None:
        """Begin a new conversation."""
        self.talk.forget()
        await self.query(Bubble).remove()
        self.query_one("#empty").display = True
        self.query_one(Question).focus()
        self._say()

    def action_train(self) -> None:
        """Put a run together that goes on from this adapter with the pairs."""
        adapter = self.partner.adapter
        if adapter is not None:
            self.app.go("new_run", going_on(self.run_directory.config(), adapter, self.pairs_file))

    def action_write(self) -> None:
        """Go to the question."""
        self.query_one(Question).focus()

    def action_page(self, by: int) -> None:
        """Scroll what was said."""
        conversation = self.query_one("#conversation", VerticalScroll)
        (conversation.scroll_page_up if by < 0 else conversation.scroll_page_down)(animate=False)

    def action_back(self) -> None:
        """Stop an answer, else leave the line one types in, else leave."""
        if self.busy:
            self.partner.stop()
        elif isinstance(self.focused, Input):
            self.query_one("#conversation").focus()
        else:
            super().action_back()
