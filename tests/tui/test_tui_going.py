"""Going from screen to screen: what one has begun somewhere is still there when one comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from mlx_align.errors import AlignError
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.chat import ChatScreen
from mlx_align_tui.screens.data import DataScreen
from mlx_align_tui.screens.data_parts.mapping import Columns, Mapping
from mlx_align_tui.screens.export import ExportScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.choice import Choice
from tests.tui.chatting import trained
from tests.tui.conftest import Engines, play, until
from tests.tui.fake_engine import written

COLUMNS = Columns((Path("rows.jsonl"),), {"prompt": "Why?", "better": "Because.", "worse": "No idea."})


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rows are read, and there are columns to choose."""
    monkeypatch.setattr(DataScreen, "_read", lambda self: self._looked(COLUMNS))


async def go(app: AlignApp, pilot: Pilot[None], name: str, *about: Any) -> AlignScreen:
    app.go(name, *about)
    screen = app.screen
    assert isinstance(screen, AlignScreen)
    await until(pilot, lambda: screen.is_mounted)
    return screen


def test_a_conversation_and_its_model_are_kept(root: Path, settings: TuiSettings, engines: Engines) -> None:
    started = engines("ok")
    run = trained(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            monitor = await go(app, pilot, "monitor", run)
            chat = await go(app, pilot, "chat", run)
            assert isinstance(chat, ChatScreen)
            for loaded in (False, True):
                if loaded:
                    await until(pilot, lambda: chat.order)
                assert await go(app, pilot, "monitor", run) is not monitor
                assert chat in app.screen_stack, "a model that took its time to load"
                assert await go(app, pilot, "chat", run) is chat
            assert len(started) == 1
            chat._lost(AlignError("the engine has ended"))
            assert not chat.keeps_something
            chat.query_one("#question").value = "why"  # type: ignore[attr-defined]
            await pilot.press("f5")
            await until(pilot, lambda: chat.order)
            await pilot.press("enter")
            await until(pilot, lambda: chat.talk.last is not None and not chat.busy)
            chat._lost(AlignError("the engine has ended"))
            await go(app, pilot, "monitor", run)
            assert chat in app.screen_stack, "what was said can still be read"
            await go(app, pilot, "chat", run)
            await chat.action_new()
            assert await go(app, pilot, "monitor", run) is monitor
            assert chat not in app.screen_stack

    play(story())


@pytest.mark.parametrize("begun", ["mark", "option"])
def test_what_is_to_be_exported_is_kept(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    run = written(root, steps=20)
    monkeypatch.setattr("mlx_align_tui.screens.export.screen.here", frozenset)
    monkeypatch.setattr("mlx_align_tui.screens.export.screen.weigh", lambda run: None)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            monitor = await go(app, pilot, "monitor", run)
            export = await go(app, pilot, "export", run)
            assert isinstance(export, ExportScreen)
            await until(pilot, lambda: export.here is not None)
            if begun == "mark":
                await pilot.press("space")
                await until(pilot, lambda: export.marked)
            else:
                export.values["lmstudio"]["repo"] = "me/m"
            assert not export.would_lose
            await go(app, pilot, "monitor", run)
            assert export in app.screen_stack
            assert await go(app, pilot, "export", run) is export
            export.marked.clear()
            export.values["lmstudio"].clear()
            assert await go(app, pilot, "monitor", run) is monitor
            assert export not in app.screen_stack

    play(story())


@pytest.mark.usefixtures("columns")
def test_columns_that_were_chosen_are_kept(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=20)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            monitor = await go(app, pilot, "monitor", run)
            data = await go(app, pilot, "data")
            await until(pilot, lambda: len(data.query(Choice)) > 2)
            chosen = data.query_one("#column-chosen", Choice)
            guessed = chosen.value
            chosen.action_step(1)
            await go(app, pilot, "monitor", run)
            assert data in app.screen_stack
            assert await go(app, pilot, "data") is data
            while chosen.value != guessed:
                chosen.action_step(1)
            assert await go(app, pilot, "monitor", run) is monitor
            assert data not in app.screen_stack

    play(story())


@pytest.mark.parametrize("way", ["back", "quit"])
@pytest.mark.usefixtures("columns")
def test_data_can_be_left_while_its_columns_are_put_up(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    empty, left = Mapping.remove_children, asyncio.Event()

    async def leave_meanwhile(mapping: Mapping) -> None:
        await empty(mapping)
        if way == "back":
            mapping.app.pop_screen()
        else:
            mapping.app.exit()
        while mapping.is_attached and not mapping._pruning:
            await asyncio.sleep(0)
        left.set()

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            data = await go(app, pilot, "data")
            await until(pilot, lambda: len(data.query(Choice)) > 2)
            mapping = data.query_one(Mapping)
            monkeypatch.setattr(Mapping, "remove_children", leave_meanwhile)
            mapping.call_later(mapping.offer, COLUMNS, "pair")
            await left.wait()
            if way == "back":
                await until(pilot, lambda: isinstance(app.screen, HomeScreen) and not data.is_attached)

    play(story())
