"""Chat: both voices, choosing, stopping, blind, an engine that dies; with a scripted engine in a process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input
from textual.widgets._footer import FooterKey

from mlx_align.chat import Turn
from mlx_align.data import load_dataset
from mlx_align.errors import AlignError
from mlx_align.runs import list_runs
from mlx_align_tui import settings as remembered
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.talking import Manner, going_on, snapshot
from mlx_align_tui.screens.chat import ChatScreen
from mlx_align_tui.screens.chat.pairs import Pairs
from mlx_align_tui.screens.new_run import NewRunScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.answer import Answer
from mlx_align_tui.widgets.bubble import Bubble
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.manner import MannerRow
from tests.trained import trained_run
from tests.tui.chatting import ask, chatting, said, titles
from tests.tui.conftest import Engines, play, until
from tests.tui.fake_engine import written
from tests.tui.snapshots import SIZES, check_picture, words


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
            await until(pilot, lambda: chat.pairs.count == 1)
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
            await until(pilot, lambda: chat.pairs.count == 1)
            bubble = chat.query_one(Bubble)
            assert titles(bubble) == ["✔ base, better", "tuned, step 40"]
            await pilot.press("less_than_sign", "backspace")
            assert chat.pairs.count == 1, "one pair a question"
            await ask(pilot, chat, "two")
            assert chat.talk.history[-1].content == "base 0: one < two (Be brief.)"
            await pilot.press("ctrl+right")
            await until(pilot, lambda: chat.pairs.count == 2)
            data = load_dataset(chat.pairs.file, "pair", valid_fraction=0.5, seed=0)
            first, second = sorted([*data.train, *data.valid], key=lambda row: row.name)
            assert first.answers == ("base 0: one < two (Be brief.)", "tuned 0: one < two (Be brief.)")
            assert second.answers == ("tuned 0: two (Be brief.)", "base 0: two (Be brief.)")
            assert [turn["role"] for turn in second.prompt] == ["system", "user", "assistant", "user"]
            await ask(pilot, chat, "same")
            await pilot.press("less_than_sign")
            await until(pilot, lambda: any("same" in note.message for note in chat.app._notifications))
            assert chat.pairs.count == 2

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


def test_while_a_pair_is_written_the_conversation_waits(
    root: Path, settings: TuiSettings, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines("ok")
    go_on, keep = threading.Event(), Pairs.keep

    def slowly(pairs: Pairs, *said: Any) -> None:
        go_on.wait()
        keep(pairs, *said)

    monkeypatch.setattr(Pairs, "keep", slowly)

    async def story() -> None:
        async with chatting(root, settings, (120, 35)) as (pilot, chat):
            bubble = await ask(pilot, chat, "one")
            try:
                await pilot.press("less_than_sign")
                assert chat.pairs.busy
                await pilot.press("ctrl+r", "ctrl+n", "ctrl+t", *"two", "enter")
                await pilot.pause()
                assert chat.talk.last is bubble.exchange
                assert not chat.busy
                assert any("ask once it is" in note.message for note in chat.app._notifications)
            finally:
                go_on.set()
            await until(pilot, lambda: bubble.exchange.chosen == 0)
            assert titles(bubble) == ["✔ base, better", "tuned, step 40"]
            await pilot.press("enter")
            await until(pilot, lambda: len(said(chat)) == 4 and not chat.busy)
            assert chat.talk.history[-1].content == "base 0: one"

    play(story())


@pytest.mark.parametrize("error", [AlignError("no"), OSError(28, "No space left"), ValueError("odd")])
def test_a_pair_that_cannot_be_kept_can_be_chosen_again(
    root: Path, settings: TuiSettings, engines: Engines, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    engines("ok")

    def fail(pairs: Pairs, *said: Any) -> None:
        raise error

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            bubble = await ask(pilot, chat, "one")
            with monkeypatch.context() as broken:
                broken.setattr(Pairs, "keep", fail)
                await pilot.press("less_than_sign")
                await until(pilot, lambda: chat.app._notifications and not chat.pairs.busy)
            assert bubble.exchange.chosen is None
            await pilot.press("less_than_sign")
            await until(pilot, lambda: bubble.exchange.chosen == 0)

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
            await until(pilot, lambda: chat.pairs.count == 1)
            named = {"base": "base", "tuned": "tuned, step 40"}
            better, worse = (named[who] for who in bubble.exchange.order)
            assert titles(bubble) == [f"✔ {better}, better", worse]

    play(story())


def test_the_mouse_chooses_an_answer_and_presses_keys(
    root: Path, settings: TuiSettings, engines: Engines
) -> None:
    engines("ok")

    async def story() -> None:
        async with chatting(root, settings, (120, 35)) as (pilot, chat):
            first = await ask(pilot, chat, "one")
            await pilot.click(first.answers[1], times=2)
            await until(pilot, lambda: chat.pairs.count == 1)
            assert titles(first) == ["base", "✔ tuned, step 40, better"]
            await pilot.click("#question")
            second = await ask(pilot, chat, "two")
            await pilot.click(first.answers[0])
            assert chat.talk.last.chosen is None, "what was said before is settled"
            (key,) = [key for key in chat.query(FooterKey) if key.key_display == "<"]
            await pilot.click(key)
            await until(pilot, lambda: chat.pairs.count == 2)
            assert titles(second)[0] == "✔ base, better"
            chat.app.clear_notifications()
            await pilot.click("#blind")
            await until(pilot, lambda: settings.chat.blind)
            assert len(chat.pairs.file.read_text(encoding="utf-8").splitlines()) == 2

    play(story())


def test_how_one_asks_is_remembered(
    root: Path, tmp_path: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "settings_path", lambda: tmp_path / "tui.toml")
    engines("ok")

    async def first() -> None:
        async with chatting(root, None) as (pilot, chat):
            chat.query_one("#temperature", Input).value = "0.25"
            chat.query_one("#tokens", Input).value = "64"
            await ask(pilot, chat, "hi")
            await pilot.press("ctrl+b")

    async def again() -> None:
        async with chatting(root, None, make=lambda root: list_runs(root)[0]) as (_, chat):
            row = chat.query_one(MannerRow)
            assert row.read() == Manner(64, 0.25, 0)
            assert row.blind

    play(first())
    play(again())


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
def test_training_on_the_pairs(root: Path, method: str) -> None:
    run = written(root, steps=20, method=method)
    config = going_on(run.config(), run.adapter, root / "pairs.jsonl")
    assert config.method.name == ("dpo" if method == "dpo" else "orpo")
    assert config.adapter.start == str(run.adapter)
    assert config.data.path == str(root / "pairs.jsonl")


def test_the_pairs_of_a_new_run_stay_as_they_were(root: Path) -> None:
    run = written(root, steps=20)
    kept = run.path / "preferences.jsonl"
    kept.write_text("one\n", encoding="utf-8")
    first = snapshot(run)
    assert snapshot(run) == first, "no second copy of the same pairs"
    kept.write_text("one\ntwo\n", encoding="utf-8")
    second = snapshot(run)
    run.remove()
    assert [first.read_text(), second.read_text()] == ["one\n", "one\ntwo\n"]
    assert sorted(first.parent.iterdir()) == sorted([first, second])
    assert list_runs(root) == []


def test_the_key_opens_a_new_run(root: Path, settings: TuiSettings, engines: Engines) -> None:
    engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            await ask(pilot, chat, "hi")
            await pilot.press("less_than_sign")
            await until(pilot, lambda: chat.pairs.count == 1)
            await pilot.press("ctrl+t")
            await until(pilot, lambda: isinstance(chat.app.screen, NewRunScreen))
            config = chat.app.screen.address[1][0]
            kept = chat.pairs.file.read_bytes()
            chat.pairs.keep([Turn(role="user", content="more")], *chat.talk.last.answers)
            assert Path(config.data.path).read_bytes() == kept != chat.pairs.file.read_bytes()

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
            await until(pilot, lambda: chat.pairs.count == 1)

    play(story())
