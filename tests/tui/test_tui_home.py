"""The list of runs: what it shows, and every key of it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input, Static

from mlx_align.engine.launch import Engine
from mlx_align.runs import RunDirectory, list_runs
from mlx_align_cli.saved import irreplaceable
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.exporting import existing
from mlx_align_tui.live.talking import snapshot
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.screens.quit import ConfirmScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.runs_table import RunsTable, widths_for
from tests.tui.conftest import Held, play, until
from tests.tui.fake_engine import launcher, new_run, written
from tests.tui.snapshots import SIZES, check_picture, footer_fits, in_one_line, seen, words

SCRIPTS = (("ok", "orpo"), ("nan", "dpo"), ("abort", "simpo"), ("ok", "grpo"), ("oom", "orpo"))


def several(root: Path, steps: int = 40) -> None:
    for number, (script, method) in enumerate(SCRIPTS):
        written(root, script, method=method, number=number, steps=steps)


def home_of(app: AlignApp) -> HomeScreen:
    screen = app.screen_stack[1]
    assert isinstance(screen, HomeScreen)
    return screen


def cells(app: AlignApp) -> list[list[str]]:
    table = home_of(app).query_one(RunsTable)
    return [[cell.plain for cell in table.get_row_at(n)] for n in range(table.row_count)]


@pytest.mark.parametrize("total", [60, 78, 80, 100, 116, 120, 160, 240])
def test_columns_fill_the_table_and_no_more(total: int) -> None:
    widths = widths_for(total)
    assert sum(width + 2 for width in widths.values()) <= max(total, 78)
    assert {"method", "model", "state", "step", "held out", "course"} <= set(widths)
    assert ("name" in widths) == (total >= 116)


@pytest.mark.usefixtures("every_place")
def test_runs_are_shown_filtered_and_marked(root: Path, settings: TuiSettings) -> None:
    several(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            home = home_of(app)
            await until(pilot, lambda: len(home.entries) == 5)
            states = [row[3].split()[1] for row in cells(app)]
            assert states == ["failed", "finished", "crashed", "failed", "finished"], "newest first"
            assert cells(app)[1][5].startswith("reward")
            assert footer_fits(app)
            await pilot.press("space", "space")
            assert app.marked == [home.entries[0].name, home.entries[1].name]
            assert [row[0] for row in cells(app)[:3]] == ["●", "●", " "]
            await pilot.press("slash", *"finished", "enter")
            await until(pilot, lambda: len(cells(app)) == 2)
            assert isinstance(home.focused, RunsTable)
            await pilot.press("escape")
            await until(pilot, lambda: len(cells(app)) == 5)
            await pilot.press("slash", *"no such run")
            await until(pilot, lambda: not cells(app))
            await pilot.press("enter", "enter", "r", "s", "space", "d")
            assert app.screen is home, "there is nothing that these could be about"
            assert home.query_one(Input).value == "no such run"

    play(story())


def test_a_run_that_vanishes_leaves_the_list_and_the_marks(root: Path, settings: TuiSettings) -> None:
    several(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test() as pilot:
            home = home_of(app)
            await until(pilot, lambda: len(home.entries) == 5)
            await pilot.press("space")
            shutil.rmtree(home.entries[0].run.path)
            home.look_now()
            await until(pilot, lambda: len(home.entries) == 4)
            assert app.marked == []
            assert len(cells(app)) == 4

    play(story())


def test_what_cannot_be_made_again_is_named_before_it_is_deleted(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=20)
    (run.path / "preferences.jsonl").write_text("{}\n" * 60, encoding="utf-8")
    facts = json.dumps({"target": "x", "provenance": {"step": 20}, "verification": {}})
    for name in ("mlx", ".half"):
        (run.path / "exports" / name).mkdir(parents=True)
        (run.path / "exports" / name / "mlx-align.json").write_text(facts, encoding="utf-8")
    (run.path / "exports" / "x.gguf").touch()
    (run.path / "exports" / "x.gguf.mlx-align.json").write_text(facts, encoding="utf-8")
    (run.path / "exports" / "notes.txt").touch()
    assert [one.path.name for one in existing(run)] == ["mlx", "x.gguf"]
    (root / "pairs").mkdir()
    (root / "pairs" / f"{run.name}-2-01234567.jsonl").touch()  # of another run
    assert irreplaceable(run) == "60 kept pairs and 2 exports"
    snapshot(run)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: home_of(app).entries)
            await pilot.press("d")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
            said = str(app.screen.query_one(Static).render())
            kept = "60 kept pairs (copies made for other runs stay in pairs/)"
            assert f"removed for good, and with them {kept} and 2 exports." in said

    play(story())


def test_the_question_is_not_asked_over_another_screen(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(root, steps=20)
    begun, go_on, counted = threading.Event(), threading.Event(), threading.Event()

    def slowly(run: RunDirectory) -> str:
        begun.set()
        go_on.wait()
        return "60 kept pairs"

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            home = home_of(app)
            ask = home._ask_to_delete
            monkeypatch.setattr(home, "_ask_to_delete", lambda *said: (ask(*said), counted.set()))
            await until(pilot, lambda: home.entries)
            try:
                await pilot.press("d")
                await until(pilot, begun.is_set)
                app.go("doctor")
                await until(pilot, lambda: app.screen is not home)
            finally:
                go_on.set()
            await until(pilot, counted.is_set)
            assert not isinstance(app.screen, ConfirmScreen)

    monkeypatch.setattr("mlx_align_tui.screens.home.irreplaceable", slowly)
    play(story())


@pytest.mark.parametrize("answer", ["n", "enter", "escape", "y"])
def test_deleting_asks_first(root: Path, settings: TuiSettings, answer: str) -> None:
    written(root, steps=20, number=0)
    newest = written(root, steps=20, number=1)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: len(home_of(app).entries) == 2)
            await pilot.press("d")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
            await pilot.press(answer)
            await until(pilot, lambda: len(list_runs(root)) == (1 if answer == "y" else 2))
            await until(pilot, lambda: app.screen is home_of(app))
            assert newest.path.exists() == (answer != "y")

    play(story())


def test_an_error_is_told_and_ends_nothing(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=20)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("slow"))
        async with app.run_test() as pilot:
            home = home_of(app)
            await until(pilot, lambda: home.entries)
            home.start(run)
            await until(pilot, lambda: any("has finished" in note.message for note in app._notifications))
            assert app.screen is home

    play(story())


def test_resume_watch_and_stop(root: Path, settings: TuiSettings) -> None:
    run = written(root, "oom", steps=40)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("slow"))
        async with app.run_test(size=(80, 24)) as pilot:
            home = home_of(app)
            await until(pilot, lambda: home.entries)
            await pilot.press("r")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            assert run.is_running()
            await pilot.press("escape")
            await until(pilot, lambda: home.entries[0].condition == "running")
            places = [home.check_action("go_with_run", (name,)) for name in ("chat", "export")]
            assert places == [True, False], "it is exported once it rests"
            before = home.entries[0].step
            await until(pilot, lambda: home.entries[0].step > before, "it is live")
            await pilot.press("s")
            await until(pilot, lambda: home.entries[0].condition == "stopped")
            assert home.check_action("go_with_run", ("export",))

    play(story())


def test_an_engine_that_was_asked_before_is_not_said_to_stop(root: Path, settings: TuiSettings) -> None:
    run = new_run(root)
    settings.keys = {"monitor.stop": "x"}

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("hang", steps=20))
        async with app.run_test(size=(80, 24)) as pilot:
            home = home_of(app)
            app.engines.start(run)
            await until(pilot, lambda: home.entries and home.entries[0].step == 10, "it hangs now")
            for said in (
                "saves and stops",
                "was asked before and has not stopped yet; open it: x there asks whether to end it at once",
            ):
                await until(pilot, lambda: home.current and home.current.condition == "running")
                await pilot.press("s")
                message = f"{run.name} {said}"
                await until(pilot, lambda message=message: message in [n.message for n in app._notifications])  # type: ignore[misc]
            assert run.is_running()

    play(story())


@pytest.mark.parametrize("key", ["n", "d", "question_mark"])
def test_a_run_that_starts_late_takes_nobody_away(root: Path, settings: TuiSettings, key: str) -> None:
    written(root, "oom", steps=40)
    go_on, begin = threading.Event(), launcher("slow")

    def slowly(run: RunDirectory) -> Engine:
        go_on.wait()
        return begin(run)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=slowly)
        async with app.run_test(size=(80, 24)) as pilot:
            home = home_of(app)
            await until(pilot, lambda: home.entries)
            await pilot.press("r")
            await pilot.press(key)
            await until(pilot, lambda: app.screen is not home)
            screen = app.screen
            go_on.set()
            await until(pilot, lambda: any("has started" in note.message for note in app._notifications))
            assert app.screen is screen

    try:
        play(story())
    finally:
        go_on.set()


def test_the_demo_is_one_key_away(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("ok", steps=20))
        async with app.run_test(size=(80, 24)) as pilot:
            home = home_of(app)
            await until(pilot, lambda: home.query_one("#empty").display)
            text = seen(app)
            assert "No runs here yet" in text
            assert "demo" in text
            await pilot.press("d")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            (run,) = list_runs(root)
            config = run.config()
            assert (config.method.name, config.model.path, config.data.path) == (
                "orpo",
                "tiny-chat",
                "sample",
            )
            await until(pilot, lambda: not run.is_running())

    play(story())


@asynccontextmanager
async def demo_begun(root: Path, settings: TuiSettings, begun: threading.Event) -> AsyncIterator[Any]:
    """An app without runs in which the demo is being prepared."""
    app = AlignApp(root, settings=settings, launcher=launcher("ok", steps=20))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: home_of(app).query_one("#empty").display)
        await pilot.press("d")
        await until(pilot, begun.is_set)
        yield app, pilot


def test_a_demo_that_is_being_prepared_is_prepared_once_and_asked_about(
    root: Path, settings: TuiSettings, held: Held
) -> None:
    begun, go_on = held

    async def story() -> None:
        async with demo_begun(root, settings, begun) as (app, pilot):
            await pilot.press("d", "q")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
            assert "A run is being prepared" in in_one_line(app)
            await pilot.press("n")
            go_on.set()
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            (run,) = list_runs(root)
            await until(pilot, lambda: not run.is_running())

    play(story())


def test_a_demo_that_was_left_leaves_nothing(root: Path, settings: TuiSettings, held: Held) -> None:
    begun, go_on = held

    async def story() -> None:
        async with demo_begun(root, settings, begun) as (app, pilot):
            home = home_of(app)
            home.on_unmount()
            go_on.set()
            await until(pilot, lambda: home._demo is None)
            assert list_runs(root) == []

    play(story())


def test_a_run_that_cannot_be_read(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=20)
    (run.path / "state.json").write_text("{", encoding="utf-8")

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(160, 45)) as pilot:
            await until(pilot, lambda: home_of(app).entries)
            assert "unreadable" in cells(app)[0][5]
            assert "cannot be read" in seen(app)

    play(story())


@pytest.mark.parametrize("theme", ["align-dark", "align-light"])
@pytest.mark.usefixtures("every_place")
def test_pictures(root: Path, theme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_align_tui.screens.home.ago", lambda seconds: "1 d ago")
    shown = Path("runs")

    async def story() -> None:
        app = AlignApp(shown, settings=TuiSettings(theme=theme))
        async with app.run_test(size=(80, 24)) as pilot:
            home = home_of(app)
            await until(pilot, lambda: home._loaded)
            await check_picture(app, f"home-empty-80x24-{theme}")
            several(shown, steps=120)
            home.look_now()
            await until(pilot, lambda: len(home.entries) == 5 and all(entry.course for entry in home.entries))
            await pilot.press("space", "j")
            for width, height in SIZES:
                await pilot.resize_terminal(width, height)
                await pilot.pause()
                await pilot.pause()
                await until(pilot, lambda: "Help" in words(app)[-1], "the keys are drawn")
                await check_picture(app, f"home-{width}x{height}-{theme}")
                assert footer_fits(app)

    play(story())


def test_a_new_run_without_an_engine(root: Path, settings: TuiSettings) -> None:
    new_run(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: home_of(app).entries)
            assert cells(app)[0][3] == "○ new"
            assert cells(app)[0][5] == "–"

    play(story())
