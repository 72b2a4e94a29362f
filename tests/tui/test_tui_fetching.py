"""A model of the hub: its size is told first, nothing comes without a yes, and it can be stopped."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input

from mlx_align import embedded
from mlx_align.hub import is_missing, parcel
from mlx_align.runs import list_runs
from mlx_align.units import size
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live import fetching, programs
from mlx_align_tui.live.fetching import Speed
from mlx_align_tui.live.programs import Planning
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.screens.new_run.fetching import FetchScreen, models_of
from mlx_align_tui.settings import TuiSettings
from tests.tui.conftest import DEADLINE, is_gone, play, until
from tests.tui.fake_engine import launcher
from tests.tui.snapshots import in_one_line
from tests.tui.test_tui_new_run import FITS, opened
from tests.unit.hub.fake_hub import FakeHub, Repo, environment, reached

NAME = "org/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of our own with the embedded model, for this process and those that it starts."""
    folder = embedded.model_folder()
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    repos = {NAME: Repo({**files, "pytorch_model.bin": b"a pickle"})}
    with FakeHub(repos) as server, reached(server, tmp_path, monkeypatch):
        for name, value in environment(server, tmp_path).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Planning, "ask", lambda self, arguments: FITS)
        yield server
        server.flowing.set()


async def chosen(app: AlignApp, pilot: Pilot[None], name: str) -> None:
    """Type a model's name, and go on with it."""
    screen = await opened(app, pilot)
    screen.query_one("#model Input", Input).focus()
    await pilot.press("end", *(["backspace"] * 20), *name, "enter")
    await until(pilot, lambda: isinstance(app.screen, FetchScreen))


def test_its_size_is_told_and_it_is_fetched_with_progress(
    root: Path, settings: TuiSettings, hub: FakeHub
) -> None:
    hub.flowing.clear()
    whole = parcel(NAME)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("ok", steps=4))
        async with app.run_test(size=(80, 24)) as pilot:
            await chosen(app, pilot, NAME)
            await until(pilot, lambda: isinstance(app.focused, Button) and app.focused.id == "fetch")
            assert f"{size(whole.size)} in {len(whole.files)} files" in in_one_line(app)
            assert not hub.sent, "it is asked first"
            await pilot.press("enter")
            await until(pilot, lambda: " left" in in_one_line(app) and "%" in in_one_line(app))
            hub.flowing.set()
            await until(pilot, lambda: not isinstance(app.screen, FetchScreen))
            assert not is_missing(NAME)
            assert "pytorch_model.bin" not in hub.sent
            screen = app.screen
            screen.action_show("launch")  # type: ignore[attr-defined]
            await until(pilot, lambda: screen.fit is FITS)  # type: ignore[attr-defined]
            await pilot.press("f5")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        (run,) = list_runs(root)
        assert run.config().model.path == NAME

    play(story())


def test_a_no_fetches_nothing_and_a_launch_asks_again(
    root: Path, settings: TuiSettings, hub: FakeHub
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("ok"))
        async with app.run_test(size=(80, 24)) as pilot:
            await chosen(app, pilot, NAME)
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, FetchScreen))
            screen = app.screen
            screen.action_show("plan")  # type: ignore[attr-defined]
            await until(pilot, lambda: "is not on this disk yet" in in_one_line(app))
            for key in ("p", "ctrl+n"):
                await pilot.press(key)
                if key == "ctrl+n":
                    await until(pilot, lambda: screen.step == "launch")  # type: ignore[attr-defined]
                    await pilot.press("f5")
                await until(pilot, lambda: isinstance(app.screen, FetchScreen))
                await until(pilot, lambda: isinstance(app.focused, Button) and app.focused.id == "fetch")
                await pilot.press("left", "enter")
                await until(pilot, lambda: app.screen is screen)
        assert not list_runs(root)
        assert not hub.sent

    play(story())


def test_it_is_stopped_and_goes_on_with_what_is_missing(
    root: Path, settings: TuiSettings, hub: FakeHub, tmp_path: Path
) -> None:
    hub.flowing.clear()
    blobs = tmp_path / "cache" / "models--org--tiny" / "blobs"

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await chosen(app, pilot, NAME)
            await until(pilot, lambda: isinstance(app.focused, Button) and app.focused.id == "fetch")
            await pilot.press("enter")
            await until(pilot, lambda: " left" in in_one_line(app))
            await until(pilot, lambda: list(blobs.glob("*.incomplete")), "a part of a file")
            await pilot.press("escape")
            hub.flowing.set()
            await until(pilot, lambda: "stopped" in in_one_line(app))
            assert "fetching again goes on" in in_one_line(app)
            assert not list(blobs.glob("*.incomplete"))
            assert is_missing(NAME)
            await pilot.press("right", "enter")
            await until(pilot, lambda: isinstance(app.focused, Button) and app.focused.id == "fetch")
            await pilot.press("enter")
            await until(pilot, lambda: not isinstance(app.screen, FetchScreen))
        assert not is_missing(NAME)
        assert not parcel(NAME).files

    play(story())


@pytest.mark.parametrize(
    ("name", "said"), [("org/none", "has no model 'org/none'"), (NAME, "cannot be reached")]
)
def test_a_wrong_name_and_no_network_are_told_with_what_to_do(
    name: str, said: str, root: Path, settings: TuiSettings, hub: FakeHub
) -> None:
    if name == NAME:
        hub.shut_down()

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await chosen(app, pilot, name)
            await until(pilot, lambda: said in in_one_line(app))
            assert "Check the spelling" in in_one_line(app) or "Connect once" in in_one_line(app)
            assert "Try again" in in_one_line(app)

    play(story())


def test_a_hub_that_cannot_be_asked_for_want_of_a_process_is_told(
    root: Path, settings: TuiSettings, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("mlx_align_tui.live.programs.start", refuse)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await chosen(app, pilot, NAME)
            await until(pilot, lambda: "temporarily unavailable" in in_one_line(app))
            assert "Try again" in in_one_line(app)
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, FetchScreen))

    play(story())


def test_a_fetch_that_the_network_keeps_waiting_does_not_outlive_the_app() -> None:
    leaving = """
import os
from mlx_align_tui.live import fetching, programs
fetching.GRACE = 0.05
waits = "import signal; print('{\\"type\\": \\"parcel\\"}', flush=True); signal.pause()"
one = fetching.Fetching("a/b", None)
one._start = lambda: programs.start(["-c", waits], [], talk=True)
for message in one.messages():
    print(one._process.pid, flush=True)
    one.leave()
    os._exit(7)
"""
    left = subprocess.run([sys.executable, "-c", leaving], stdout=subprocess.PIPE, text=True, check=False)
    assert left.returncode == 7

    async def ends() -> None:
        async with asyncio.timeout(DEADLINE):
            while not is_gone(int(left.stdout)):
                await asyncio.sleep(0.01)

    play(ends())


def test_a_fetch_that_is_left_and_killed_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "GRACE", 0.05)
    waits = 'import signal; print(\'{"type": "parcel"}\', flush=True); signal.pause()'
    one = fetching.Fetching("a/b", None)
    monkeypatch.setattr(one, "_start", lambda: programs.start(["-c", waits], [], talk=True))
    heard = []
    for message in one.messages():
        heard.append(message)
        one.leave()
    assert heard == [{"type": "parcel"}]
    assert one._reaper is None
    one.leave()
    assert one._reaper is None, "it has ended, and its number may be another's"


def test_models_that_judge_are_needed_too() -> None:
    from mlx_align.config import ModelConfig, RewardConfig, RunConfig

    judges = [RewardConfig(name="judge"), RewardConfig(name="judge", model="a/b")]  # type: ignore[call-arg]
    config = RunConfig(model=ModelConfig(path="c/d", revision="main"), rewards=tuple(judges))
    assert models_of(config) == [("c/d", "main"), ("a/b", None)]


def test_speed_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    assert speed.saw(0.0, 0) == 0.0
    assert speed.saw(2.0, 100) == 50.0
    assert speed.saw(30.0, 100) == 0.0, "what was long ago counts no more"
