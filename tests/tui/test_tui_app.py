"""The app itself: getting about, help, jumping, the palette, themes, settings, keys, and leaving."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from textual.command import CommandPalette
from textual.containers import VerticalScroll
from textual.events import Key
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.widgets import Button, Tab
from textual.widgets._footer import FooterKey

from mlx_align.errors import AlignError, ConfigError
from mlx_align.runs import list_runs
from mlx_align_tui import settings as remembered
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.export import ExportScreen
from mlx_align_tui.screens.help import HelpScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.jump import JumpScreen, Letter
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.screens.quit import QuitScreen
from mlx_align_tui.screens.viewing import ViewingScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.themes import THEMES
from mlx_align_tui.widgets.curve import Curve, CurvePanel
from tests.tui.conftest import play, until
from tests.tui.fake_engine import launcher, new_run, written
from tests.tui.snapshots import words


def test_nothing_heavy_is_loaded_at_the_start() -> None:
    code = "import mlx_align_tui.app, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"mlx", "mlx_lm", "torch", "peft", "transformers", "textual_plot"}.isdisjoint(
        result.stdout.split()
    )


def test_help_jump_palette_and_the_way_back(root: Path, settings: TuiSettings) -> None:
    written(root, steps=20)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(100, 30)) as pilot:
            home = app.screen
            assert isinstance(home, HomeScreen)
            await until(pilot, lambda: home.entries)
            await pilot.press("question_mark")
            await until(pilot, lambda: isinstance(app.screen, HelpScreen))
            ids = [name for _, _, name in AlignScreen.keys(home)]
            assert {"runs.filter", "runs.delete", "app.help", "app.quit"} <= set(ids)
            await pilot.press("escape")
            await pilot.press("slash", "f")
            assert home.query_one("#filter").value == "f", "a letter that is typed is no command"  # type: ignore[attr-defined]
            await pilot.press("escape", "enter")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            monitor = app.screen
            await until(pilot, lambda: len(monitor.query("CurvePanel")) == 4)
            await pilot.press("ctrl+j")
            await until(pilot, lambda: isinstance(app.screen, JumpScreen))
            letters = [str(letter.render()) for letter in app.screen.query(Letter)]
            assert letters[:5] == list("asdfg"), "one for each tab, then one for each plot"
            await pilot.press("g")
            await until(pilot, lambda: monitor.query_one("#tabs").active == "alerts")  # type: ignore[attr-defined]
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is home)
            await pilot.press("escape")
            assert app.screen is home, "from the first screen nothing is gone back from"
            await pilot.press("ctrl+p")
            await until(pilot, lambda: isinstance(app.screen, CommandPalette))
            await pilot.press(*"tinychatmonitor")
            await until(pilot, lambda: app.screen.query_one("CommandList").option_count == 1)  # type: ignore[attr-defined]
            await pilot.press("down", "enter")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))

    play(story())


def test_each_place_is_open_once(root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (written(root, steps=20, number=number) for number in range(2))

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:

            async def go(name: str, *about: Any) -> AlignScreen:
                app.go(name, *about)
                screen = app.screen
                assert isinstance(screen, AlignScreen)
                await until(pilot, lambda: screen.is_mounted)
                return screen

            def places() -> list[str]:
                return [screen.address[0] for screen in app.screen_stack if isinstance(screen, AlignScreen)]

            monitor = await go("monitor", first)
            assert isinstance(monitor, MonitorScreen)
            compare = await go("compare", [first, second])
            await go("export", first)
            assert places() == ["home", "monitor", "compare", "export"]
            assert await go("compare") is compare, "whatever it is about"
            assert await go("monitor", first) is monitor
            assert places() == ["home", "monitor"]
            other = await go("monitor", second)
            assert isinstance(other, MonitorScreen)
            assert other.run_directory == second
            assert places() == ["home", "monitor"]
            await until(pilot, monitor.gone.is_set, "it reads no more")
            await go("export", second)
            monkeypatch.setattr(ExportScreen, "would_lose", "An export is under way.")
            for run in (second, first):
                await go("monitor", run)
                assert places() == ["home", "monitor", "export", "monitor"], "nothing is lost"

    play(story())


def test_vim_keys_and_keys_of_ones_own(root: Path) -> None:
    for number in range(4):
        written(root, steps=20, number=number)

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings(keys={"runs.mark": "m"}))
        async with app.run_test(size=(80, 24)) as pilot:
            home = app.screen
            assert isinstance(home, HomeScreen)
            await until(pilot, lambda: home.entries)
            table = home.query_one("RunsTable")
            rows = []
            for key in ("j", "j", "k", "G", "g"):
                await pilot.press(key)
                await pilot.pause()
                rows.append(table.cursor_row)  # type: ignore[attr-defined]
            assert rows == [1, 2, 1, 3, 0]
            await pilot.press("space")
            assert app.marked == []
            await pilot.press("m")
            assert app.marked == [home.entries[0].name]
            row = table.cursor_row  # type: ignore[attr-defined]
            for key in ("j", "m"):  # pressed faster than they are handled
                app.post_message(Key(key, key))
            await until(pilot, lambda: len(app.marked) == 2)
            assert app.marked[1] == home.entries[row + 1].name

    play(story())


@pytest.mark.parametrize("room", [True, False])
def test_settings_are_kept_and_a_full_disk_is_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    write = remembered.write_text
    monkeypatch.setattr(remembered, "settings_path", lambda: tmp_path / "config" / "tui.toml")

    async def story() -> None:
        app = AlignApp(root)
        async with app.run_test() as pilot:
            app.theme = "align-light"
            await until(pilot, lambda: remembered.load().theme == "align-light")

            def full(path: Path, text: str) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(remembered, "write_text", full)
            app.theme = "align-contrast"
            await until(pilot, lambda: app._notifications)
            (note,) = app._notifications
            assert "No space left" in note.message
            assert app.theme == "align-contrast", "it holds all the same"
            if room:
                monkeypatch.setattr(remembered, "write_text", write)
        assert remembered.load().theme == ("align-contrast" if room else "align-light")
        assert room == (app.unsaved is None), "it is told on the terminal"

    play(story())


@pytest.mark.parametrize("text", ["theme = ", 'theme = 3\n[curves]\nsmoothing = "much"', 'keys = "x"'])
def test_settings_that_cannot_be_read_are_told_and_left_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "tui.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(remembered, "settings_path", lambda: path)
    with pytest.raises(ConfigError):
        remembered.load()

    async def story() -> None:
        app = AlignApp(root)
        async with app.run_test() as pilot:
            await until(pilot, lambda: app._notifications)
            app.theme = "align-light"
            await pilot.pause()
        assert path.read_text(encoding="utf-8") == text

    play(story())


def test_what_was_looked_at_is_looked_at_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "settings_path", lambda: tmp_path / "tui.toml")
    runs = [written(root, steps=40 * (number + 1), number=number) for number in range(2)]

    async def opened(pilot: Pilot[None], *where: Any) -> ViewingScreen:
        app, before = pilot.app, pilot.app.screen
        assert isinstance(app, AlignApp)
        app.go(*where)
        await until(pilot, lambda: app.screen is not before)
        screen = app.screen
        assert isinstance(screen, ViewingScreen)
        await until(pilot, lambda: screen.tab)
        return screen

    async def first() -> None:
        app = AlignApp(root)
        async with app.run_test(size=(80, 24)) as pilot:
            app.theme = "align-light"
            monitor = await opened(pilot, "monitor", runs[0])
            assert monitor.tab == "curves"
            await pilot.press("plus", "L", "t", "4")
            await until(pilot, lambda: monitor.tab == "config")
            compare = await opened(pilot, "compare", runs)
            await pilot.press("2")
            await until(pilot, lambda: compare.tab == "measures")

    async def again() -> None:
        app = AlignApp(root)
        async with app.run_test(size=(80, 24)) as pilot:
            assert app.theme == "align-light"
            monitor = await opened(pilot, "monitor", runs[1])
            await until(pilot, lambda: any("method.name" in line for line in words(app)), "it is filled")
            assert monitor.tab == "config"
            assert isinstance(app.focused, VerticalScroll), "and can be scrolled"
            await pilot.press("1")
            assert (monitor.view.smoothing, monitor.view.log_scale, monitor.view.axis) == (5, True, "time")
            await until(pilot, lambda: "mean of 5 · log · by time" in words(app)[0])
            compare = await opened(pilot, "compare", runs)
            await until(pilot, lambda: any("★" in line for line in words(app)))
            assert compare.tab == "measures"
            await pilot.press("1")
            await until(pilot, lambda: "mean of 5 · log · by time" in words(app)[0], "as in Monitor")

    play(first())
    play(again())


def test_the_mouse_does_what_keys_do(root: Path, settings: TuiSettings) -> None:
    for number in range(3):
        written(root, steps=40, number=number)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(100, 30)) as pilot:
            home = app.screen
            assert isinstance(home, HomeScreen)
            await until(pilot, lambda: home.entries)
            await pilot.click("RunsTable", offset=(20, 2))
            await until(pilot, lambda: home.current is home.entries[1])
            await press_footer(pilot, "Mark")
            await until(pilot, lambda: app.marked == [home.entries[1].name])
            await pilot.click("RunsTable", offset=(20, 3))
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen), "under the cursor it opens")
            monitor = app.screen
            assert isinstance(monitor, MonitorScreen)
            assert monitor.run_directory.name == home.entries[2].name
            await until(pilot, lambda: monitor.tab == "curves" and monitor.query("CurvePanel"))
            panel = monitor.query(CurvePanel).last()
            await until(pilot, lambda: panel.lines)
            await pilot.click(panel.query_one("#plot"), offset=(20, 4))
            await until(pilot, lambda: monitor.view.cursor is not None and app.focused is panel)
            assert monitor.view.cursor == pytest.approx(
                panel.query_one(Curve).get_coordinate_from_pixel(20, 1)[0]
            )
            await press_footer(pilot, "Zoom")
            await until(pilot, lambda: monitor.view.zoom)
            await pilot.click(monitor.query(Tab)[1])
            await until(pilot, lambda: any("before training" in line for line in words(app)))
            assert monitor.tab == "samples"

    play(story())


async def press_footer(pilot: Pilot[None], what: str) -> None:
    """Click on the key of this description at the foot of the screen, once it is drawn."""
    screen = pilot.app.screen

    def place() -> Offset | None:
        found = [key.region for key in screen.query(FooterKey) if key.description == what and key.region]
        at = found[0].offset + Offset(1, 0) if found else None
        return at if at and isinstance(screen.get_widget_at(*at)[0], FooterKey) else None

    await until(pilot, place, f"{what} is among the keys")
    await pilot.click(offset=place())


def test_settings_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tui.toml"
    assert remembered.load(path) == TuiSettings()
    given = TuiSettings(theme="align-light", keys={"runs.stop": "ctrl+s"})
    for number in range(10):
        given.remember_model(f"model-{number}")
    given.remember_model("model-5")
    remembered.save(given, TuiSettings(), path)
    assert remembered.load(path) == given
    assert given.recent_models[:3] == ("model-5", "model-9", "model-8")
    assert len(given.recent_models) == remembered.RECENT
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(AlignError):
        remembered.save(given, TuiSettings(), tmp_path / "file" / "tui.toml")


def test_no_colour(root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert AlignApp(root, settings=settings).theme == "align-plain"
    monkeypatch.delenv("NO_COLOR")
    for other in ("gone", "nord"):  # Textual's own lack our colours
        assert AlignApp(root, settings=TuiSettings(theme=other)).theme == "align-dark"
    assert all(theme.name in AlignApp(root, settings=settings).available_themes for theme in THEMES.values())


@pytest.mark.parametrize(
    ("key", "leaves", "stops"), [("c", False, False), ("d", True, False), ("s", True, True)]
)
def test_leaving_while_an_engine_runs(
    root: Path, settings: TuiSettings, key: str, leaves: bool, stops: bool
) -> None:
    run = new_run(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("slow"))
        async with app.run_test(size=(80, 24)) as pilot:
            app.engines.start(run)
            assert [r.name for r in app.engines.running()] == [run.name]
            await pilot.press("q")
            await until(pilot, lambda: isinstance(app.screen, QuitScreen))
            assert [str(b.label) for b in app.screen.query(Button)] == ["Detach", "Stop and save", "Cancel"]
            await pilot.press(key)
            if not leaves:
                await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            if leaves:
                await until(pilot, lambda: app._exit)
            assert (app._exit is True) == leaves
            assert run.is_running() or stops
            if stops:
                await until(pilot, lambda: not run.is_running())
                assert run.summary()["status"] == "stopped"

    play(story())


def test_leaving_with_nothing_running_asks_nothing(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test() as pilot:
            await pilot.press("ctrl+q")
            assert app._exit

    play(story())
    assert list_runs(root) == []


def test_a_thread_that_fails_is_told(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            home = app.screen
            assert isinstance(home, HomeScreen)
            home.work(lambda: 1 // 0, group="test")
            await until(pilot, lambda: app._notifications)
            (note,) = app._notifications
            assert "a bug in mlx-align: ZeroDivisionError" in note.message

    play(story())
