"""Leaving New run: nothing that was chosen is lost unasked, and what was left does not start."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from mlx_align.runs import RunDirectory, list_runs
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.programs import Planning
from mlx_align_tui.screens.data import DataScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.screens.new_run import NewRunScreen
from mlx_align_tui.screens.new_run.saving import AskNameScreen
from mlx_align_tui.screens.quit import ConfirmScreen
from mlx_align_tui.settings import TuiSettings
from tests.tui.conftest import play, until
from tests.tui.fake_engine import launcher, written
from tests.tui.snapshots import in_one_line
from tests.tui.test_tui_new_run import FITS, opened, reach


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is planned, and no cache of the hub is looked into."""
    monkeypatch.setattr(Planning, "ask", lambda self, arguments: FITS)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.chdir(tmp_path)


async def at_launch(app: AlignApp, pilot: Pilot[None]) -> NewRunScreen:
    screen = await opened(app, pilot)
    screen.action_show("launch")
    await until(pilot, lambda: screen.step == "launch" and screen.resolved)
    return screen


async def answered(app: AlignApp, pilot: Pilot[None], answer: str, said: str) -> None:
    """Press Escape, and answer the question that comes."""
    await pilot.press("escape")
    await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
    assert said in in_one_line(app)
    await pilot.press(answer)
    await until(pilot, lambda: not isinstance(app.screen, ConfirmScreen))


def test_escape_leaves_the_line_first_and_then_asks(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            for step, selector in (("model", "#model Input"), ("data", "#data Input")):
                screen.action_show(step)
                await until(pilot, lambda step=step: screen.step == step)  # type: ignore[misc]
                screen.query_one(selector).focus()
                await pilot.press("escape")
                await until(pilot, lambda: not isinstance(screen.focused, Input))
                assert app.screen is screen
            await pilot.press("3")
            await until(pilot, lambda: screen.step == "method")
            await reach(pilot, screen, "optim.lr")
            await pilot.press(*"2e-4", "escape")
            await until(pilot, lambda: not isinstance(screen.focused, Input))
            assert app.screen is screen
            await pilot.press("5")
            await until(pilot, lambda: screen.step == "launch")
            await answered(app, pilot, "n", "would be lost")
            assert app.screen is screen
            assert screen.draft.typed == {"optim.lr": "2e-4"}
            await answered(app, pilot, "y", "would be lost")
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))

    play(story())


def test_what_was_not_changed_or_was_saved_is_left_unasked(
    root: Path, settings: TuiSettings, tmp_path: Path
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(app, pilot)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            screen = await at_launch(app, pilot)
            screen.draft.put("optim.lr", "2e-4")
            assert screen.would_lose
            await pilot.press("f4")
            await until(pilot, lambda: isinstance(app.screen, AskNameScreen))
            await pilot.press("enter")
            await until(pilot, lambda: (tmp_path / "orpo.toml").is_file() and app.screen is screen)
            await until(pilot, lambda: not screen.would_lose)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))

    play(story())


def test_a_launch_that_was_left_does_not_start(
    root: Path, settings: TuiSettings, held: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = held
    started: list[RunDirectory] = []

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=started.append)  # type: ignore[arg-type]
        async with app.run_test(size=(80, 24)) as pilot:
            await at_launch(app, pilot)
            await pilot.press("f5")
            await until(pilot, begun.is_set)
            await answered(app, pilot, "n", "it would not be started")
            assert app.engines.prepares
            await answered(app, pilot, "y", "it would not be started")
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            go_on.set()
            await until(pilot, lambda: not app.engines.prepares)
            await until(pilot, lambda: started or not list_runs(root))
        assert not started
        assert not list_runs(root)

    play(story())


def test_an_engine_that_is_being_started_is_not_left_unseen(root: Path, settings: TuiSettings) -> None:
    starting, go_on, start = threading.Event(), threading.Event(), launcher("ok", steps=4)

    def slowly(run: RunDirectory) -> Any:
        starting.set()
        go_on.wait()
        return start(run)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=slowly)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await at_launch(app, pilot)
            await pilot.press("f5")
            await until(pilot, starting.is_set)
            await answered(app, pilot, "y", "it would not be started")
            await until(pilot, lambda: any("started already" in note.message for note in app._notifications))
            assert app.screen is screen
            go_on.set()
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))

    play(story())


@pytest.mark.parametrize("over", ["export", "help", "new_run"])
def test_a_launch_takes_nobody_away_from_another_screen(
    root: Path, settings: TuiSettings, held: tuple[threading.Event, threading.Event], over: str
) -> None:
    begun, go_on = held
    old = written(root, steps=20)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("ok", steps=4))
        async with app.run_test(size=(80, 24)) as pilot:
            new_run = await at_launch(app, pilot)
            await pilot.press("f5")
            await until(pilot, begun.is_set)
            if over == "help":
                await pilot.press("question_mark")
            else:
                app.go("export", old)
            await until(pilot, lambda: app.screen is not new_run and app.screen.is_mounted)
            above = app.screen
            go_on.set()
            await until(pilot, lambda: any("has started" in note.message for note in app._notifications))
            assert app.screen is above
            assert not new_run.would_lose
            if over == "new_run":
                assert await opened(app, pilot) is not new_run, "another one is meant"
                assert above in app.screen_stack
                return
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            assert app.screen.run_directory != old  # type: ignore[attr-defined]
            assert new_run not in app.screen_stack

    play(story())


def test_rows_that_one_looks_at_lie_over_the_new_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataScreen, "_read", lambda self: None)

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            app.go("data")
            await until(pilot, lambda: isinstance(app.screen, DataScreen))
            new_run = await opened(app, pilot)
            await until(pilot, lambda: new_run.resolved)
            new_run.action_look()
            await until(pilot, lambda: isinstance(app.screen, DataScreen))
            assert new_run in app.screen_stack, "it takes the length that is chosen there"
            assert app.screen.address[1][1] == new_run.resolved.config

    play(story())
