"""Leaving while something is under way: it is asked about, nobody waits, and nothing starts afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_align.errors import UsageError
from mlx_align.runs import Control, RunDirectory
from mlx_align_tui.app import AlignApp
from mlx_align_tui.leaving import AT_ONCE, Threads
from mlx_align_tui.live.engines import Engines
from mlx_align_tui.screens import PLACES
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.quit import ConfirmScreen, QuitScreen
from mlx_align_tui.settings import TuiSettings
from tests.tui.conftest import DEADLINE, play, until
from tests.tui.conftest import Engines as ChatEngines
from tests.tui.fake_engine import launcher, new_run, written
from tests.tui.snapshots import seen

WORKING = """
import asyncio, sys, threading
from mlx_align_tui.leaving import Threads, depart

async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Threads())
    loop.run_in_executor(None, threading.Event().wait if sys.argv[1] == "busy" else int)

asyncio.run(main())
raise SystemExit(depart(3))
"""


@pytest.mark.parametrize("thread", ["busy", "idle"])
def test_threads_at_work_are_not_waited_for(thread: str) -> None:
    done = subprocess.run([sys.executable, "-c", WORKING, thread], timeout=120, check=False)
    assert done.returncode == 3


def test_screens_that_wait_leave_threads_to_others() -> None:
    together = threading.Barrier(AT_ONCE)
    with Threads() as threads:
        waiting = [threads.submit(together.wait, DEADLINE) for _ in range(AT_ONCE)]
        assert {done.result() for done in waiting} == set(range(AT_ONCE))


def test_a_run_that_is_being_prepared_is_asked_about_and_not_started_afterwards(
    root: Path, settings: TuiSettings
) -> None:
    run, go_on = new_run(root), threading.Event()
    refused: list[str] = []

    def put_together(engines: Engines) -> None:
        with engines.preparing():
            go_on.wait()
        try:
            engines.start(run)
        except UsageError as error:
            refused.append(error.message)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("ok"))
        async with app.run_test(size=(80, 24)) as pilot:
            thread = threading.Thread(target=put_together, args=[app.engines])
            thread.start()
            await until(pilot, lambda: app.engines.prepares)
            for answer, leaves in (("n", False), ("y", True)):
                await pilot.press("ctrl+q")
                await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
                assert "would not be started" in seen(app)
                await pilot.press(answer)
                await until(pilot, lambda leaves=leaves: app._exit or not leaves)  # type: ignore[misc]
                assert bool(app._exit) is leaves
        go_on.set()
        thread.join()

    play(story())
    assert refused
    assert not run.is_running()
    assert not run.events.exists()


def test_an_engine_that_is_just_being_started_counts(root: Path) -> None:
    run, started, go_on = new_run(root), threading.Event(), threading.Event()

    def slowly(run: RunDirectory) -> None:
        started.set()
        go_on.wait()
        raise UsageError("an engine works on it already")

    engines = Engines(slowly)  # type: ignore[arg-type]

    def start() -> None:
        with pytest.raises(UsageError):
            engines.start(run)

    thread = threading.Thread(target=start)
    thread.start()
    started.wait()
    assert engines.running() == [run]
    go_on.set()
    thread.join()
    assert engines.running() == []


def test_a_full_disk_when_all_are_to_stop(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, other = (new_run(root, number=number) for number in range(2))
    request = Control.request

    def refuse(self: Control, what: str) -> None:
        if self.folder == full.control.folder:
            raise OSError(28, "No space left on device")
        request(self, what)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("slow"))
        async with app.run_test(size=(80, 24)) as pilot:
            for run in (full, other):
                app.engines.start(run)
            monkeypatch.setattr(Control, "request", refuse)
            await pilot.press("ctrl+q")
            await until(pilot, lambda: isinstance(app.screen, QuitScreen))
            await pilot.press("s")
            await until(pilot, lambda: not other.is_running())
            await until(pilot, lambda: any("No space left" in told.message for told in app._notifications))
            assert not app._exit
            assert isinstance(app.screen, HomeScreen)
            assert app.engines.running() == [full]

    play(story())


@pytest.mark.parametrize("way", ["escape", "ctrl+q"])
@pytest.mark.parametrize("place", [name for name in PLACES if name != "home"])
def test_every_screen_can_be_left(
    root: Path, settings: TuiSettings, engines: ChatEngines, place: str, way: str
) -> None:
    engines("ok")
    run = written(root, steps=20)
    arguments: dict[str, list[Any]] = {"nothing": [], "run": [run], "runs": [[run]]}

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            app.go(place, *arguments[PLACES[place].needs])
            await until(pilot, lambda: app.screen.is_mounted and not isinstance(app.screen, HomeScreen))
            screen = app.screen
            app.go(place, *arguments[PLACES[place].needs])
            assert app.screen is screen, "one is there already"
            for _ in range(5):
                if not app._exit and not isinstance(app.screen, HomeScreen):
                    await pilot.press(way)
                    await pilot.pause()
            assert bool(app._exit) is (way == "ctrl+q")

    play(story())


def test_a_run_is_started_once(root: Path) -> None:
    run, started, go_on = new_run(root), threading.Event(), threading.Event()

    def slowly(run: RunDirectory) -> Any:
        started.set()
        go_on.wait()
        return SimpleNamespace(process=SimpleNamespace(pid=4711, poll=lambda: None))

    engines = Engines(slowly)
    thread = threading.Thread(target=engines.start, args=[run])
    thread.start()
    started.wait()
    with pytest.raises(UsageError, match="being started already"):
        engines.start(run)
    go_on.set()
    thread.join()
