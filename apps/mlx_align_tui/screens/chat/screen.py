"""Chat: the model before and after its run, side by side, and pairs made of what they answer."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input

from mlx_align.chat import Hello, Voice
from mlx_align.errors import AlignError, DataError, UsageError
from mlx_align.runs import RunDirectory
from mlx_align_cli.display.text import plural
from mlx_align_cli.saved import PAIRS
from mlx_align_cli.talk import Exchange, Talk
from mlx_align_tui.keymap import keyed
from mlx_align_tui.live.adapters import Adapter, adapters_of
from mlx_align_tui.live.talking import Manner, Partner, going_on, snapshot
from mlx_align_tui.plain import plain
from mlx_align_tui.screens import PLACES
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.chat import texts
from mlx_align_tui.screens.chat.conversation import Conversation
from mlx_align_tui.screens.chat.loading import Loading
from mlx_align_tui.screens.chat.pairs import Pairs
from mlx_align_tui.screens.chat.weights import WeightsScreen
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

    Attributes:
        order: who can be asked, from left to right; nobody as long as nothing is loaded.
        wanted: the name of the adapter that was chosen, None for the usual one.
        busy: whether an answer is being given.
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
        Binding("ctrl+t", "train", "Train", id="chat.train"),
        Binding("ctrl+o", "weights", "Step", id="chat.weights"),
        Binding("f5", "start", "Start again", id="chat.start"),
        Binding("pageup", "page(-1)", "Page up", id="chat.page_up", show=False),
        Binding("pagedown", "page(1)", "Page down", id="chat.page_down", show=False),
    ]

    class Opened(Message):
        """The model is loaded, or cannot be."""

        def __init__(self, what: Hello | AlignError) -> None:
            super().__init__()
            self.what = what

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run_directory = run
        self.pairs = Pairs(run.path / PAIRS)
        self.talk, self.partner = Talk(), Partner()
        self.order: tuple[Voice, ...] = ()
        self.wanted: str | None = None
        self.busy = self.early = False

    def body(self) -> ComposeResult:
        """How to answer, what was said, and where one types."""
        yield MannerRow(self.app.settings.chat, id="manner")
        yield Loading()
        yield Conversation(id="conversation")
        yield Question(placeholder="ask something", id="question", select_on_focus=False)

    def on_mount(self) -> None:
        """Begin to load."""
        self.action_start()

    def on_unmount(self) -> None:
        """End the engine."""
        self.partner.close()

    # Loading

    def action_start(self) -> None:
        """Load the model, for the first time or again after it was lost."""
        self.order, self.busy = (), False
        self.query_one(Loading).begin()
        self._say()
        self.run_worker(self._open, thread=True, group="open", exclusive=True, exit_on_error=False)

    def _open(self) -> None:
        try:
            what: Hello | AlignError = self.partner.open(self.run_directory, self.wanted)
            self.pairs.look()
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
        hello = event.what
        self.order = ("base", "tuned") if len(hello.voices) > 1 else hello.voices
        self.query_one(Loading).end("\n".join(f"[$quiet]{plain(note)}[/]" for note in hello.notes))
        self._say()
        question, early, self.early = self.query_one(Question).value.strip(), self.early, False
        if early and question:
            self._ask(question)

    def _lost(self, error: AlignError) -> None:
        self.order, self.busy = (), False
        self.query_one(Loading).end(keyed(self, texts.lost(error)))
        self._say()

    def _say(self) -> None:
        """Say at the top who answers and how much was kept, and offer what can be done now."""
        adapter, words = self.partner.adapter, []
        if self.busy:
            words.append(texts.STOPPING if self.partner.stopped else texts.ANSWERING)
        words += [adapter.label] if adapter is not None and self.order else []
        words += ["[$accent]blind[/]"] if self.query_one(MannerRow).blind else []
        words += [f"{plural(self.pairs.count, 'pair')} kept"] if self.pairs.count else []
        self.say_where(self.fitting(self.run_directory.name), f"[$quiet]{' · '.join(words)}[/]")
        self.query_one(Conversation).offer(self.choosable and not self.busy)
        self.refresh_bindings()

    def action_weights(self) -> None:
        """Choose another of the run's adapters."""
        run = self.run_directory

        def ask(found: list[Adapter]) -> None:
            self.app.push_screen(WeightsScreen(found, self.partner.adapter), self._take)

        self.work(lambda: adapters_of(run), ask, group="weights")

    def _take(self, name: str | None) -> None:
        if name is not None and not self.busy:
            self.wanted = name
            self.query_one(Question).focus()
            self.action_start()

    # Asking

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ask; in a setting, go to the question."""
        question = self.query_one(Question)
        if event.input is not question:
            question.focus()
        elif event.value.strip() and not self.busy:
            self._ask(event.value.strip())

    def _ask(self, question: str) -> None:
        if self.pairs.busy:
            self.notify("The pair is still being kept; ask once it is.")
            return
        if not self.order:
            self.early = self.query_one(Loading).busy
            if self.early:
                self.notify("It is asked as soon as the model is loaded.")
            else:
                self.notify("There is no model to ask.", severity="warning")
            return
        row = self.query_one(MannerRow)
        manner = row.read()
        if manner is None:
            return
        if row.system != self.talk.system:
            self.talk.settle()  # what has been answered had the old one
            self.talk.system = row.system
        exchange = row.exchange(question, self.order)
        self.talk.ask(exchange)
        self.query_one(Question).value = ""
        self._answer(exchange, manner)

    def _answer(self, exchange: Exchange, manner: Manner) -> None:
        self.busy = True
        self.partner.begin()
        prompt, adapter = self.talk.prompt, self.partner.adapter
        tuned = f"tuned, {adapter.title}" if adapter is not None else "tuned"
        self.query_one(Conversation).add(
            Bubble(exchange, tuned, lambda tell: self.partner.answer(exchange.order, prompt, manner, tell))
        )
        kept = {"temperature": manner.temperature, "max_tokens": manner.max_tokens}
        self.app.remember(chat=self.app.settings.chat.model_copy(update=kept))
        self._say()

    def on_bubble_ended(self, event: Bubble.Ended) -> None:
        """Let the person choose, or ask again."""
        self.busy = False
        if event.error is not None and not isinstance(event.error, HARMLESS):
            self._lost(event.error)
        elif event.error is not None:
            self.app.tell(event.error)
        self._say()

    # What can be done

    @property
    def has_begun(self) -> bool:
        """Whether something was asked in this conversation."""
        return bool(self.talk.last or self.talk.history)

    @property
    def keeps_something(self) -> bool:
        """A conversation, and a model that took its time to load or is being loaded."""
        return self.has_begun or bool(self.order) or any(each.busy for each in self.query(Loading))

    @property
    def choosable(self) -> bool:
        """Whether there are two whole answers to choose from."""
        last = self.talk.last
        two = last is not None and last.chosen is None and len(last.order) == 2 and last.whole
        return two and not self.pairs.busy

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what can be done now is offered."""
        loading = self.query(Loading)  # none while the screen is being closed
        idle = not self.busy and bool(loading) and not loading.first().busy
        settled = not self.busy and not self.pairs.busy
        can = {
            "choose": self.choosable,
            "retry": self.talk.last is not None and bool(self.order) and settled,
            "blind": len(self.order) > 1,
            "new": settled and self.has_begun,
            "train": self.pairs.count > 0 and not self.pairs.busy and "new_run" in PLACES,
            "weights": idle,
            "start": idle and not self.order,
        }
        return can.get(action, True)

    def action_choose(self, place: int) -> None:
        """Keep a pair, in which the answer at this place is the better one."""
        if self.pairs.busy:
            return
        try:
            better, worse = self.talk.pair(place)
        except AlignError as error:
            self.app.tell(error)
            return

        def keep() -> None:
            try:
                self.pairs.keep(prompt, better, worse)
            except BaseException:
                self.app.call_from_thread(self._settle)
                raise

        def kept(_: None) -> None:
            voice, number = self.talk.choose(place), self.pairs.count
            for bubble in self.query(Bubble):
                bubble.settle()
            self.notify(
                f"The {voice} answer is better: pair {number} of {self.pairs.file.name}", markup=False
            )
            self._settle()

        self.pairs.busy, prompt = True, self.talk.prompt
        self.work(keep, kept, group="keep")
        self._say()

    def _settle(self) -> None:
        """A pair is kept, or could not be."""
        self.pairs.busy = False
        self._say()

    def on_bubble_preferred(self, event: Bubble.Preferred) -> None:
        """Keep a pair: an answer was clicked on."""
        self.query_one(Question).focus()
        self.action_choose(event.place)

    def action_retry(self) -> None:
        """Ask the last question again with the next seed."""
        row, last = self.query_one(MannerRow), self.talk.last
        manner = row.read()
        if manner is None or last is None:
            return
        if manner.temperature == 0:
            self.notify("At temperature 0 another seed changes nothing; 0.7 is lively.", severity="warning")
            return
        row.reseed(manner.seed + 1)
        self.talk.last = row.exchange(last.question, self.order)
        self._answer(self.talk.last, Manner(manner.max_tokens, manner.temperature, manner.seed + 1))

    def action_blind(self) -> None:
        """Hide the names, or show them, from the next question on."""
        self.query_one(MannerRow).toggle_blind()

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Say at the top whether names are hidden, and remember it."""
        kept = self.app.settings.chat.model_copy(update={"blind": self.query_one(MannerRow).blind})
        self.app.remember(chat=kept)
        self._say()

    async def action_new(self) -> None:
        """Begin a new conversation."""
        self.talk.forget()
        await self.query_one(Conversation).forget()
        self.query_one(Question).focus()
        self._say()

    def action_train(self) -> None:
        """Put a run together that goes on from this adapter with the pairs."""
        adapter = self.partner.adapter
        if adapter is not None:
            folder, run = adapter.folder, self.run_directory
            self.work(
                lambda: going_on(run.config(), folder, snapshot(run)),
                lambda config: self.app.go("new_run", config),
                group="train",
            )

    def action_write(self) -> None:
        """Go to the question."""
        self.query_one(Question).focus()

    def action_page(self, by: int) -> None:
        """Scroll what was said."""
        self.query_one(Conversation).page(by)

    def action_back(self) -> None:
        """Stop an answer, and end an engine that does not; else leave the line one types in, else leave."""
        if self.busy and self.partner.stopped:
            self.partner.end()
        elif self.busy:
            self.partner.stop()
            self._say()
        elif isinstance(self.focused, Input):
            self.query_one(Conversation).focus()
        else:
            super().action_back()
