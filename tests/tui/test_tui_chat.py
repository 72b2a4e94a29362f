"""Chat: both voices, choosing, stopping, blind, an engine that dies; with a scripted engine in a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from mlx_align.data import load_dataset
from mlx_align.runs import RunDirectory
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.talking import going_on
from mlx_align_tui.screens.chat import ChatScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.answer import Answer
from mlx_align_tui.widgets.bubble import Bubble
from mlx_align_tui.widgets.choice import Choice
from tests.trained import trained_run
from tests.tui.conftest import play, until
from tests.tui.fake_engine import written
from tests.tui.snapshots import SIZES, check_picture, words

ENGINE = Path(__file__).with_name("fake_chat.py")
Engines = Callable[[str], list["subprocess.Popen[bytes]"]]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Make every chat engine a scripted one; returns the processes that were started."""
    started: list[subprocess.Popen[bytes]] = []

    def use(script: str) -> list[subprocess.Popen[bytes]]:
        def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            assert command[-1] == "mlx_align.engine.chat"
            started.append(subprocess.Popen([sys.executable, str(ENGINE), script], **options))
            return started[-1]

        fake = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr("mlx_align.chat.subprocess", fake)
        monkeypatch.setattr("mlx_align.runs.chosen.model_of", lambda run: run.path)
        return started

    return use


def trained(root: Path) -> RunDirectory:
    run = written(root, steps=20)
    run.adapter.mkdir()
    return run


@asynccontextmanager
async def chatting(
    root: Path, settings: TuiSettings, size: tuple[int, int] = (80, 24), loaded: bool = True
) -> Any:
    """An app with the chat open, and as a rule loaded."""
    app = AlignApp(root, settings=settings)
    run = trained(root)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        app.go("chat", run)
        await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        chat = app.screen
        assert isinstance(chat, ChatScreen)
        chat.query_one("#question", Input).cursor_blink = False
        if loaded:
            await until(pilot, lambda: chat.order, "the engine says hello")
        yield pilot, chat


async def ask(pilot: Pilot[Any], chat: ChatScreen, question: str) -> Bubble:
    chat.query_one("#question", Input).value = question
    await pilot.press("enter")
    await until(pilot, lambda: not chat.busy, f"an answer to {question}")
    return list(chat.query(Bubble))[-1]


def said(chat: ChatScreen) -> list[str]:
    return [answer.text for answer in chat.query(Answer)]


def titles(bubble: Bubble) -> list[str]:
    return [str(answer.border_title) for answer in bubble.query(Answer)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["align-dark", "align-light"])
def test_pictures(
    root: Path, settings: TuiSettings, engines: Engines, size: tuple[int, int], theme: str
) -> None:
    engines("ok")
    settings.theme = theme

    async def story() -> None:
        async with chatting(root, settings, size) as (pilot, chat):
            await ask(pilot, chat, "What is the capital of France?")
            await pilot.press("greater_than_sign")
            await until(pilot, lambda: chat.pairs == 1)
            await ask(pilot, chat, "And of Italy?")
            chat.app.clear_notifications()
            await pilot.pause()
            side_by_side = {answer.region.y for answer in list(chat.query(Answer))[-2:]}
            assert (len(side_by_side) == 1) == (size[0] >= 100)
            await check_picture(chat.app, f"chat-{size[0]}x{size[1]}-{theme}")

    play(story())


def test_the_empty_chat_says_what_to_do(root: Path, settings: TuiSettings, engines: Engines) -> None:
    engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            await pilot.pause()
            assert any("Ask something." in line for line in words(chat.app))
            await check_picture(chat.app, "chat-empty-80x24-align-dark")
            assert chat.query_one("#question").has_focus

    play(story())


def test_pairs_are_kept_and_the_conversation_goes_on_from_the_better(
    root: Path, settings: TuiSettings, engines: Engines
) -> None:
    engines("ok")

    async def story() -> None:
        async with chatting(root, settings, (120, 35)) as (pilot, chat):
            chat.query_one("#system", Input).value = "Be brief."
            await ask(pilot, chat, "one < two")
            assert said(chat) == ["base 0: one < two (Be brief.)", "tuned 0: one < two (Be brief.)"]
            await pilot.press("less_than_sign")
            await until(pilot, lambda: chat.pairs == 1)
            bubble = chat.query_one(Bubble)
            assert titles(bubble) == ["✔ base, better", "tuned"]
            await pilot.press("less_than_sign", "backspace")
            assert chat.pairs == 1, "one pair a question"
            await ask(pilot, chat, "two")
            assert chat.talk.history[-1].content == "base 0: one < two (Be brief.)"
            await pilot.press("ctrl+right")
            await until(pilot, lambda: chat.pairs == 2)
            data = load_dataset(chat.pairs_file, "pair", valid_fraction=0.5, seed=0)
            first, second = sorted([*data.train, *data.valid], key=lambda row: row.name)
            assert first.answers == ("base 0: one < two (Be brief.)", "tuned 0: one < two (Be brief.)")
            assert second.answers == ("tuned 0: two (Be brief.)", "base 0: two (Be brief.)")
            assert [turn["role"] for turn in second.prompt] == ["system", "user", "assistant", "user"]
            await ask(pilot, chat, "same")
            await pilot.press("less_than_sign")
            await until(pilot, lambda: any("same" in note.message for note in chat.app._notifications))
            assert chat.pairs == 2

    play(story())


def test_retry_has_the_next_seed_and_new_forgets(root: Path, settings: TuiSettings, engines: Engines) -> None:
    engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            await ask(pilot, chat, "hi")
            await pilot.press("ctrl+r")
            await until(pilot, lambda: len(said(chat)) == 4 and not chat.busy)
            assert said(chat)[2:] == ["base 1: hi", "tuned 1: hi"]
            assert not chat.talk.history
            chat.query_one("#temperature", Input).value = "0"
            await pilot.press("ctrl+r")
            assert not chat.busy
            assert len(said(chat)) == 4
            for wrong in ("-1", "", "1e999"):
                chat.query_one("#temperature", Input).value = wrong
                await pilot.press("ctrl+r")
                assert chat.query_one("#temperature").has_class("-wrong")
            await pilot.press("ctrl+n")
            await until(pilot, lambda: not said(chat))
            assert chat.talk.last is None

    play(story())


def test_blind_tells_the_names_after_the_choice(root: Path, settings: TuiSettings, engines: Engines) -> None:
    engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            await pilot.press("ctrl+b")
            assert chat.query_one("#blind", Choice).value == "blind"
            orders = set()
            for number in range(12):
                bubble = await ask(pilot, chat, f"q{number}")
                assert titles(bubble) == ["left", "right"]
                orders.add(bubble.exchange.order)
            assert orders == {("base", "tuned"), ("tuned", "base")}
            await pilot.press("less_than_sign")
            await until(pilot, lambda: chat.pairs == 1)
            assert titles(bubble) == [f"✔ {bubble.exchange.order[0]}, better", bubble.exchange.order[1]]

    play(story())


def test_escape_stops_then_leaves_the_line_then_the_screen(
    root: Path, settings: TuiSettings, engines: Engines
) -> None:
    processes = engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            chat.query_one("#question", Input).value = "long"
            await pilot.press("enter")
            await until(pilot, lambda: len(said(chat)[0]) > 40, "it is streamed")
            await pilot.press("enter", "ctrl+r")
            await pilot.press("escape")
            await until(pilot, lambda: not chat.busy)
            first, second = chat.query(Answer)
            assert "stopped" in str(first.border_subtitle)
            assert second.text == "", "the other is not asked any more"
            assert not chat.choosable
            await pilot.press("escape")
            assert chat.query_one("#conversation").has_focus
            await pilot.press("enter")
            assert chat.query_one("#question").has_focus
            await pilot.press("escape", "escape")
            await until(pilot, lambda: isinstance(chat.app.screen, HomeScreen))
            await until(pilot, lambda: processes[0].poll() is not None, "the engine has ended")

    play(story())


def test_an_engine_that_dies_is_told_and_started_again(
    root: Path, settings: TuiSettings, engines: Engines
) -> None:
    processes = engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            await ask(pilot, chat, "hi")
            await ask(pilot, chat, "refuse")
            assert chat.order, "a question that is refused is no end"
            await ask(pilot, chat, "die")
            assert not chat.order
            text = "\n".join(words(chat.app))
            assert "SIGKILL" in text
            assert "out of memory" in text
            chat.app.clear_notifications()
            await pilot.pause()
            await check_picture(chat.app, "chat-died-80x24-align-dark")
            await pilot.press("f5")
            await until(pilot, lambda: chat.order)
            bubble = await ask(pilot, chat, "again")
            assert bubble.answer(1).text == "tuned 0: again"
            assert [turn.content for turn in chat.talk.history] == ["hi", "tuned 0: hi"]
            assert len(processes) == 2

    play(story())


@pytest.mark.parametrize("script", ["broken", "endless"])
def test_a_model_that_does_not_load(root: Path, settings: TuiSettings, engines: Engines, script: str) -> None:
    processes = engines(script)

    async def story() -> None:
        async with chatting(root, settings, loaded=False) as (pilot, chat):
            await until(pilot, lambda: processes)
            notice = chat.query_one("#notice", Static)
            if script == "broken":
                await until(pilot, lambda: "cannot be read" in str(notice.render()))
            chat.query_one("#question", Input).value = "hi"
            await pilot.press("enter", "f5" if script == "endless" else "enter")
            assert not said(chat)
            await pilot.press("escape", "escape")
            await until(pilot, lambda: processes[0].poll() is not None, "nothing is left running")

    play(story())


def test_a_run_without_an_adapter_says_so(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=20)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test() as pilot:
            app.go("chat", run)
            await until(pilot, lambda: any("saved no adapter yet" in line for line in words(app)))

    play(story())


def test_one_voice_alone(root: Path, settings: TuiSettings, engines: Engines) -> None:
    engines("alone")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            await ask(pilot, chat, "markup")
            assert said(chat) == ["[red]a[/red] [b] [/] \x1b[31m"]
            assert any("[red]a[/red] [b] [/] ␛[31m" in line for line in words(chat.app))
            assert not chat.choosable

    play(story())


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_training_on_the_pairs(root: Path, settings: TuiSettings, method: str) -> None:
    run = written(root, steps=20, method=method)
    config = going_on(run.config(), run.adapter, run.path / "preferences.jsonl")
    assert config.method.name == ("dpo" if method == "dpo" else "orpo")
    assert config.adapter.start == str(run.adapter)
    assert config.data.path == str(run.path / "preferences.jsonl")


def test_the_key_opens_a_new_run(root: Path, settings: TuiSettings, engines: Engines) -> None:
    engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            await ask(pilot, chat, "hi")
            await pilot.press("less_than_sign")
            await until(pilot, lambda: chat.pairs == 1)
            await pilot.press("ctrl+t")
            await until(pilot, lambda: type(chat.app.screen).__name__ == "NewRunScreen")

    play(story())


@pytest.mark.slow
def test_the_real_engine_answers(
    tmp_path: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.tui.conftest.DEADLINE", 300.0)
    run = trained_run(tmp_path, spread=3.0)

    async def story() -> None:
        app = AlignApp(tmp_path, settings=settings)
        async with app.run_test(size=(120, 35)) as pilot:
            app.go("chat", run)
            await until(pilot, lambda: isinstance(app.screen, ChatScreen) and app.screen.order)
            chat = app.screen
            assert isinstance(chat, ChatScreen)
            chat.query_one("#tokens", Input).value = "24"
            bubble = await ask(pilot, chat, "What is 2 + 3?")
            assert [done.tokens > 0 for done in bubble.exchange.answers] == [True, True]
            assert len(set(said(chat))) == 2, "the adapter is drawn at random, and says other things"
            await pilot.press("greater_than_sign")
            await until(pilot, lambda: chat.pairs == 1)

    play(story())
