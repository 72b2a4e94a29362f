"""Export: jobs in other processes, one after the other, what came of them, and cancelling."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.widgets import TabbedContent

from mlx_align_tui.live import exporting
from mlx_align_tui.live.exporting import Exporting
from mlx_align_tui.live.targets import KINDS
from mlx_align_tui.screens.export.jobs import Job
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.quit import ConfirmScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.export_card import ExportCard
from mlx_align_tui.widgets.exports_table import ExportsTable
from tests.trained import trained_run
from tests.tui.conftest import DEADLINE, EXPORT, is_gone, play, until
from tests.tui.exporting import opened, saved, states
from tests.tui.fake_engine import written
from tests.tui.snapshots import seen, words


def test_several_targets_one_after_the_other(
    root: Path, settings: TuiSettings, script: Callable[[str], None]
) -> None:
    script("ok")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):
            await pilot.press("space", "down", "space", "space", "up", "up", "f5")
            await until(pilot, lambda: states(screen) == ["done", "done", "done"])
            titles = ["mlx", "gguf-adapter", "gguf"]
            assert [job.title for job in screen.jobs] == titles
            assert screen.marked == []
            text = seen(screen.app)
            for word in ("verified by llama.cpp", "3.1e-07", "0.013", "99.8%", "next: use gguf"):
                assert word in text
            await pilot.press("y")
            assert screen.app.clipboard == "use gguf"
            screen.query(ExportCard).first().focus()
            await pilot.press("y")
            assert screen.app.clipboard == "use mlx"
            await pilot.press("3")
            await until(pilot, lambda: screen.query_one(ExportsTable).row_count == 3)
            await pilot.press("v")
            await until(pilot, lambda: states(screen)[3:] == ["done"])
            assert screen.jobs[3].title == "verify gguf"
            assert screen.query_one("#tabs", TabbedContent).active == "progress"

    play(story())


def test_the_top_line_fits_80_columns(
    root: Path, settings: TuiSettings, script: Callable[[str], None]
) -> None:
    script("ok")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await until(pilot, lambda: screen.chosen)
            many = [*["failed"] * 3, *["done"] * 12, "waiting"]
            screen.jobs = [Job("mlx", Exporting([], run.path), state) for state in many]
            screen.marked = list(KINDS)
            screen._say()
            await pilot.pause()
            assert words(screen.app)[0].rstrip().endswith("  3 failed · 9 marked · at work · 12 done")

    play(story())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bad", "the adapter is not in it"),
        ("early", "the base cannot be found"),
        ("blind", "not verified: llama.cpp is not installed"),
        ("compare", "again, 4 bits"),
    ],
)
def test_what_came_of_it_is_told(
    root: Path, settings: TuiSettings, script: Callable[[str], None], name: str, said: str
) -> None:
    script(name)
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and not screen.busy)
            assert states(screen) == ["failed" if name in ("bad", "early") else "done"]
            await pilot.pause()
            assert any(said in line for line in words(screen.app))
            await pilot.press("1", "f5")
            await until(pilot, lambda: len(screen.jobs) == 2 and not screen.busy)

    play(story())


@pytest.mark.parametrize("name", ["hang", "stubborn"])
def test_cancelling_leaves_nothing(
    root: Path,
    settings: TuiSettings,
    script: Callable[[str], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "GRACE", 0.05)
    script(name)
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("space", "space", "f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            await pilot.press("c")
            await until(pilot, lambda: not screen.busy)
            assert states(screen) == ["cancelled", "cancelled"]
            assert not list((run.path / "exports").iterdir())
            script("ok")
            await pilot.press("1", "f5")
            await until(pilot, lambda: states(screen)[2:] == ["done"])

    play(story())


def test_what_is_begun_after_a_cancel_is_not_cancelled(
    root: Path, settings: TuiSettings, script: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "GRACE", DEADLINE)
    script("stubborn")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            await pilot.press("c")
            script("ok")
            await pilot.press("1", "f5")
            assert states(screen) == ["running", "waiting"], "the first is still asked to end"
            (writing,) = (run.path / "exports").iterdir()
            os.kill(int(writing.name.split("-")[1]), signal.SIGKILL)
            await until(pilot, lambda: not screen.busy)
            assert states(screen) == ["cancelled", "done"]

    play(story())


def test_an_export_that_does_not_end_does_not_outlive_the_app(tmp_path: Path) -> None:
    run = written(tmp_path, steps=20)
    leaving = """
import os, sys
from pathlib import Path
from mlx_align_tui.live import exporting
exporting.PROGRAM, exporting.GRACE = [sys.argv[1], "stubborn"], 0.05
run = sys.argv[2]
export = exporting.Exporting(["export", run, "--to", "mlx"], Path(run, "exports"))
def told(message):
    if message["stage"] == "verifying":
        print(export._process.pid, flush=True)
        export.cancel()
        os._exit(7)
export.run(told)
"""
    command = [sys.executable, "-c", leaving, str(EXPORT), str(run.path)]
    left = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert left.returncode == 7

    async def is_clean() -> None:
        async with asyncio.timeout(DEADLINE):
            while list((run.path / "exports").iterdir()) or not is_gone(int(left.stdout)):
                await asyncio.sleep(0.01)

    play(is_clean())


def test_an_export_that_is_killed_takes_away_only_its_own(
    root: Path, settings: TuiSettings, script: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "GRACE", 0.05)
    script("stubborn")
    run = saved(root)
    exports = run.path / "exports"

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            (own,) = exports.iterdir()
            put_aside = own.with_name(f"{own.name}-old")  # what it was about to replace
            others = [exports / ".mlx-12-abc", exports / ".gguf-x1", put_aside]
            for other in others:
                other.mkdir()
            await pilot.press("c")
            await until(pilot, lambda: not screen.busy)
            assert sorted(exports.iterdir()) == sorted(others)

    play(story())


def test_quitting_asks_about_an_export(
    root: Path, settings: TuiSettings, script: Callable[[str], None]
) -> None:
    script("hang")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            await pilot.press("ctrl+q")
            await until(pilot, lambda: any("export is under way" in line for line in words(screen.app)))
            await pilot.press("n")
            await until(pilot, lambda: screen.app.screen is screen)
            assert screen.busy
            await pilot.press("ctrl+q")
            await until(pilot, lambda: isinstance(screen.app.screen, ConfirmScreen))
            await pilot.press("y")
            await until(pilot, lambda: screen.app._exit)
        async with asyncio.timeout(DEADLINE):
            while list((run.path / "exports").iterdir()):
                await asyncio.sleep(0.01)

    play(story())


def test_leaving_asks_and_cancels(root: Path, settings: TuiSettings, script: Callable[[str], None]) -> None:
    script("hang")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(screen.app.screen, ConfirmScreen))
            await pilot.press("n")
            await until(pilot, lambda: screen.app.screen is screen)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(screen.app.screen, ConfirmScreen))
            await pilot.press("y")
            await until(pilot, lambda: isinstance(screen.app.screen, HomeScreen))
            await until(pilot, lambda: not list((run.path / "exports").iterdir()))

    play(story())


@pytest.mark.slow
def test_the_real_program_exports_and_verifies(
    tmp_path: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.tui.conftest.DEADLINE", 300.0)
    run = trained_run(tmp_path)

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and not screen.busy)
            assert screen.jobs[0].error is None
            assert screen.jobs[0].result["verification"]["figures"]["share"] == pytest.approx(1, abs=0.05)
            await until(pilot, lambda: screen.query_one(ExportsTable).row_count == 1)
            assert screen.jobs[0].next_command.startswith("mlx_lm.generate")

    play(story())
