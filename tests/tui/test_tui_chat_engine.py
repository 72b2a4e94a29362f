"""Chat: an engine that dies, hangs or cannot load, and which of the run's adapters it loads."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from textual.widgets import Input, Static

from mlx_align.errors import UsageError
from mlx_align.runs import RunLock
from mlx_align.runs.chosen import adapter_of, made_of
from mlx_align.toml import to_toml
from mlx_align_tui.live.adapters import adapters_of, pick
from mlx_align_tui.screens.chat import ChatScreen
from mlx_align_tui.screens.chat.weights import WeightsScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.answer import Answer
from mlx_align_tui.widgets.bubble import Bubble
from tests.tui.chatting import ask, chatting, said, save, titles
from tests.tui.conftest import DEADLINE, Engines, play, until
from tests.tui.fake_engine import written
from tests.tui.snapshots import check_picture, seen, words


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
            text = seen(chat.app)
            assert "SIGKILL" in text
            assert "out of memory" in text
            chat.app.clear_notifications()
            await pilot.pause()
            await check_picture(chat.app, "chat-died-80x24-align-dark")
            await pilot.press("f5")
            await until(pilot, lambda: chat.order)
            bubble = await ask(pilot, chat, "again")
            assert bubble.answers[1].text == "tuned 0: again"
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


@pytest.mark.parametrize("running", [False, True])
def test_a_run_without_an_adapter_says_how_it_comes_to_one(
    root: Path, settings: TuiSettings, engines: Engines, running: bool
) -> None:
    engines("ok")

    async def story() -> None:
        async with chatting(root, settings, loaded=False, make=lambda root: written(root, steps=20)) as (
            pilot,
            chat,
        ):
            await until(pilot, lambda: "saved no adapter yet" in seen(chat.app))
            assert "resume it on the list of runs" in seen(chat.app)
            run = chat.run_directory
            with RunLock(run.lock) if running else nullcontext():
                await pilot.press("f5")
                wanted = "every 50 steps" if running else "resume it on the list of runs"
                await until(pilot, lambda: wanted in seen(chat.app))
                save(run, 50)
                await pilot.press("f5")
                await until(pilot, lambda: chat.order, "its first checkpoint answers")
                assert "step 50 newest" in seen(chat.app)

    play(story())


def test_adapters_of_a_run_and_which_answers(root: Path) -> None:
    run = written(root, steps=20)
    save(run, 20, 100, 40, best=40)
    found = adapters_of(run)
    assert [adapter.title for adapter in found] == ["step 100", "step 40", "step 20"]
    assert [adapter.marks for adapter in found] == ["newest", "★ best", ""]
    assert found[0].measured == "accuracy 87.5%, margin 2.000"
    assert pick(found, None).step == 40, "the best, while it trains and afterwards"
    assert pick(found, "step-000020").folder.name == "step-000020"
    assert pick(found[:1], None).step == 100, "the newest where none is the best"
    with pytest.raises(UsageError, match="step-000060 is not kept any more"):
        pick(found, "step-000060")
    run.adapter.mkdir()
    assert pick(adapters_of(run), None).folder == run.adapter, "this one stays"
    shutil.rmtree(run.path / "checkpoints" / "step-000040")
    labels = [adapter.label for adapter in adapters_of(run)]
    assert labels == ["step 100 newest", "step 20", "finished ★ best"]
    assert made_of(run) == run.path / "checkpoints" / "step-000040", "which is gone"
    shutil.rmtree(run.path / "checkpoints")
    assert [adapter.label for adapter in adapters_of(run)] == ["finished newest"]
    assert made_of(run) is None


def test_the_beginning_may_be_the_best_of_a_run_that_began_with_an_adapter(root: Path) -> None:
    run = written(root, steps=60)
    save(run, 0, 60, best=0)
    assert pick(adapters_of(run), None).step == 60, "the beginning is the untrained model"
    config = run.config()
    begun = config.model_copy(update={"adapter": config.adapter.model_copy(update={"start": "an/adapter"})})
    (run.path / "config.toml").write_text(to_toml(begun), encoding="utf-8")
    assert pick(adapters_of(run), None).step == 0


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("best", [None, 0, 40, 80])  # 0: the untrained model; 80: removed
def test_chat_and_the_other_commands_take_the_same_adapter(
    root: Path, best: int | None, finished: bool
) -> None:
    run = written(root, steps=60)
    with pytest.raises(UsageError, match="has saved no adapter yet"):
        adapter_of(run, None)
    save(run, 0, 40, 60, best=best)
    if finished:
        run.adapter.mkdir()
    taken = run.adapter if finished else run.path / "checkpoints" / f"step-0000{40 if best == 40 else 60}"
    assert adapter_of(run, None) == taken
    assert pick(adapters_of(run), None).folder == taken


def test_another_step_answers(root: Path, settings: TuiSettings, engines: Engines) -> None:
    processes = engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            assert "step 40 ★ best" in words(chat.app)[0]
            await ask(pilot, chat, "which")
            await pilot.press("ctrl+o")
            await until(pilot, lambda: isinstance(chat.app.screen, WeightsScreen))
            assert "● step 40" in seen(chat.app)
            await check_picture(chat.app, "chat-weights-80x24-align-dark")
            await pilot.press("escape")
            assert len(processes) == 1, "it stays as it is"
            await pilot.press("ctrl+o")
            await until(pilot, lambda: isinstance(chat.app.screen, WeightsScreen))
            await pilot.press("k", "enter")
            await until(pilot, lambda: len(processes) == 2 and chat.order)
            assert "step 60 newest" in words(chat.app)[0]
            bubble = await ask(pilot, chat, "which")
            assert said(chat) == ["adapter", "adapter", "step-000060", "step-000060"]
            assert titles(bubble) == ["base", "tuned, step 60"]
            assert [turn.content for turn in chat.talk.history] == ["which", "adapter"]
            shutil.rmtree(chat.run_directory.path / "checkpoints" / "step-000060")
            await ask(pilot, chat, "die")
            await pilot.press("f5")
            await until(pilot, lambda: "is not kept any more" in seen(chat.app))

    play(story())


def test_an_engine_that_hangs_is_ended(root: Path, settings: TuiSettings, engines: Engines) -> None:
    processes = engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            chat.query_one("#question", Input).value = "hang"
            await pilot.press("enter")
            await until(pilot, lambda: chat.busy and chat.query(Bubble))
            os.kill(processes[0].pid, signal.SIGSTOP)
            await pilot.press("escape")
            assert chat.busy
            assert "again ends the engine" in words(chat.app)[0]
            await pilot.press("escape")
            await until(pilot, lambda: not chat.busy)
            assert not chat.order
            assert processes[0].wait() == -signal.SIGKILL
            await pilot.press("f5")
            await until(pilot, lambda: chat.order, "another one is there")

    play(story())


@pytest.mark.parametrize("keys", [("escape", "escape"), ("ctrl+q",)])
def test_an_engine_that_ends_late_keeps_nobody_waiting(
    root: Path,
    settings: TuiSettings,
    engines: Engines,
    monkeypatch: pytest.MonkeyPatch,
    keys: tuple[str, ...],
) -> None:
    processes, waiting, waits = engines("ok"), list[threading.Thread](), threading.Event()

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            wait = processes[0].wait

            def watched(timeout: float | None = None) -> int:
                waiting.append(threading.current_thread())
                waits.set()
                return wait(timeout)

            monkeypatch.setattr(processes[0], "wait", watched)
            await pilot.press(*keys)
            await until(pilot, lambda: not isinstance(chat.app.screen, ChatScreen) or chat.app._exit)
        assert wait() == -signal.SIGKILL

    play(story())
    assert waits.wait(DEADLINE)
    assert threading.current_thread() not in waiting


def test_a_question_too_long_for_the_pipe_of_an_engine_that_hangs(
    root: Path, settings: TuiSettings, engines: Engines
) -> None:
    processes = engines("ok")

    async def story() -> None:
        async with chatting(root, settings) as (pilot, chat):
            os.kill(processes[0].pid, signal.SIGSTOP)
            chat._ask("x" * 1_000_000)
            await until(pilot, lambda: chat.busy and chat.query(Bubble))
            await pilot.press("escape", "escape")
            await until(pilot, lambda: not chat.busy)
            assert not chat.order

    play(story())


def test_a_question_may_come_before_the_model(
    root: Path, settings: TuiSettings, engines: Engines, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    processes = engines(f"late:{go}")

    async def story() -> None:
        async with chatting(root, settings, loaded=False) as (pilot, chat):
            chat.query_one("#question", Input).value = "hi"
            await pilot.press("enter")
            assert chat.early
            go.touch()
            await until(pilot, lambda: processes)
            await until(pilot, lambda: said(chat)[-1:] == ["tuned 0: hi"], "both have answered")

    play(story())
