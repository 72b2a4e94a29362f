"""Monitor of runs that end, are ended, hang, or cannot be read any more."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from textual.widgets import Static

from mlx_align.engine.launch import ADVICE, Engine
from mlx_align.runs import EventReader, RunDirectory, RunLock
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live import engines
from mlx_align_tui.live.following import Tail
from mlx_align_tui.screens.help import HelpScreen
from mlx_align_tui.screens.quit import ConfirmScreen
from mlx_align_tui.settings import TuiSettings
from tests.tui.conftest import DEADLINE, play, until
from tests.tui.fake_engine import launcher, new_run, written
from tests.tui.monitoring import opened
from tests.tui.snapshots import braille, in_one_line, seen, words


@pytest.mark.parametrize(
    ("script", "condition", "says"),
    [
        ("ok", "finished", "healthy"),
        ("nan", "failed", "5 updates in a row were not finite"),
        ("oom", "failed", "out of memory"),
        ("abort", "crashed", "ended without a last word"),
    ],
)
def test_how_runs_end(root: Path, settings: TuiSettings, script: str, condition: str, says: str) -> None:
    run = written(root, script, steps=80)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(100, 30)) as pilot:
            screen = await opened(pilot, app, run)
            await until(pilot, lambda: braille(app) > 50)
            assert screen.latest is not None
            assert screen.latest.condition == condition
            await until(pilot, lambda: says in seen(app))
            assert condition in words(app)[1]

    play(story())


def test_an_engine_that_hangs_can_be_ended(root: Path, settings: TuiSettings) -> None:
    run = new_run(root)
    settings.keys = {"monitor.stop": "x"}

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("hang", steps=20))
        async with app.run_test(size=(80, 24)) as pilot:
            app.engines.start(run)
            screen = await opened(pilot, app, run)
            await until(pilot, lambda: screen.latest.state.step == 10)  # type: ignore[union-attr]
            told = screen.latest
            await until(pilot, lambda: screen.latest is not told, "time goes on without news")
            assert screen.latest.condition == "running"  # type: ignore[union-attr]
            await pilot.press("x")
            await until(pilot, lambda: run.control.requested("stop"))
            told_of = "it saves a checkpoint and stops; x again asks whether to end it at once"
            await until(pilot, lambda: [each.message for each in app._notifications] == [told_of])
            for answer in ("n", "y"):
                await pilot.press("x")
                await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
                question = str(app.screen.query_one(Static).render())
                assert "Its last checkpoint stays, that of step 0; what came after it is lost." in question
                assert run.is_running(), "it is not ended without a yes"
                await pilot.press(answer)
                await until(pilot, lambda: app.screen is screen)
            await until(pilot, lambda: screen.latest.condition == "crashed")  # type: ignore[union-attr]
            await until(
                pilot, lambda: "the engine was killed after it had been asked to stop" in in_one_line(app)
            )
            assert "r goes on from the last checkpoint" in in_one_line(app)

    play(story())


def test_only_the_engine_that_was_asked_about_is_ended(root: Path, settings: TuiSettings) -> None:
    run = new_run(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("hang", steps=20))
        async with app.run_test(size=(80, 24)) as pilot:
            app.engines.start(run)
            screen = await opened(pilot, app, run)
            await until(pilot, lambda: screen.latest.state.step == 10)  # type: ignore[union-attr]
            asked = run.pid()
            assert asked is not None
            await pilot.press("s")
            await until(pilot, lambda: run.control.requested("stop"))
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
            os.kill(asked, signal.SIGKILL)
            await until(pilot, lambda: not run.is_running())
            run.control.clear("stop")  # as `launch` does
            app.engines.start(run)
            await pilot.press("y")
            await until(pilot, lambda: any("another engine" in note.message for note in app._notifications))
            assert run.pid() not in (None, asked), "the one that has come meanwhile goes on"

    play(story())


def test_whether_to_end_it_is_not_asked_over_something_else(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, known = written(root, "abort", steps=40), threading.Event()
    monkeypatch.setattr(engines, "stop", lambda run: known.wait(DEADLINE) and 4711)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            with RunLock(run.lock):
                screen = await opened(pilot, app, run)
                await until(pilot, lambda: screen.latest.condition == "running")  # type: ignore[union-attr]
                await pilot.press("s", "question_mark")
                await until(pilot, lambda: isinstance(app.screen, HelpScreen))
                known.set()
                await until(pilot, lambda: not [one for one in app.workers if one.group == "stop"])
                assert isinstance(app.screen, HelpScreen)
                assert not any(isinstance(one, ConfirmScreen) for one in app.screen_stack)

    play(story())


@pytest.mark.parametrize("number", ADVICE, ids=lambda number: number.name)
def test_a_run_that_is_killed(root: Path, settings: TuiSettings, number: signal.Signals) -> None:
    run = new_run(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("slow"))
        async with app.run_test(size=(80, 24)) as pilot:
            app.engines.start(run)
            screen = await opened(pilot, app, run)
            await until(pilot, lambda: screen.latest.state.step > 0)  # type: ignore[union-attr]
            app.settings.keys = {"monitor.resume": "R"}
            pid = run.pid()
            assert pid is not None
            os.kill(pid, number)
            await until(pilot, lambda: screen.latest.condition == "crashed")  # type: ignore[union-attr]
            await until(pilot, lambda: app.engines.exit_code(run) == -number)
            await until(pilot, lambda: f"ended by {number.name}" in seen(app))
            said = in_one_line(app)
            assert ADVICE[number] in said, "all of it, in 80 columns"
            assert "3 shows the log, R goes on from the last checkpoint." in said
            await pilot.press("5")
            await until(pilot, lambda: in_one_line(app).count(ADVICE[number]) == 2, "in the alerts too")
            with RunLock(run.lock):  # an engine that was started elsewhere
                pass
            assert app.engines.exit_code(run) is None

    play(story())


def test_a_run_that_cannot_be_read_for_a_while(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written(root, steps=40)
    broken: list[OSError] = []
    real = Tail.read

    def read(tail: Tail) -> str:
        if broken:
            raise broken[0]
        return real(tail)

    monkeypatch.setattr(Tail, "read", read)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(pilot, app, run)
            await until(pilot, lambda: "finished" in words(app)[1])
            broken.append(OSError(24, "Too many open files"))
            await until(pilot, lambda: "the run cannot be read: Too many open files" in seen(app))
            assert "unreadable" in words(app)[1]
            broken.clear()
            await until(pilot, lambda: "finished" in words(app)[1])
            assert "Too many" not in seen(app)

    play(story())


def test_a_run_that_is_removed_while_it_is_watched(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=40)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(pilot, app, run)
            shutil.rmtree(run.path)
            await pilot.press("4")
            await until(pilot, lambda: app._notifications, "it is told")
            await pilot.press("escape")

    play(story())


@pytest.mark.parametrize("script", [None, "oom"], ids=["new", "resumed"])
def test_an_engine_that_dies_before_it_begins(root: Path, settings: TuiSettings, script: str | None) -> None:
    """Its run's events tell nothing of it, and would be waited for in vain."""
    run = written(root, script, steps=40) if script else new_run(root)

    def die(run: RunDirectory) -> Engine:
        process = subprocess.Popen([sys.executable, "-c", "import os; os.abort()"])
        process.wait()
        return Engine(run, process, EventReader(run.events))

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=die)
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(pilot, app, run)
            await pilot.press("r")
            await until(pilot, lambda: app._notifications)
            said = "".join(note.message for note in app._notifications)
            assert "ended by SIGABRT, before it could begin" in said
            assert ADVICE[signal.SIGABRT] in said
            assert f"at {run.log}" in said

    play(story())
