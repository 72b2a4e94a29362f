"""What is remembered is written while one goes on, beside what others write, and before one leaves."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from signal import Signals
from typing import cast

import pytest
import tomli_w

import mlx_align_tui
from mlx_align.errors import AlignError
from mlx_align.toml import read_toml
from mlx_align_tui import settings as remembered
from mlx_align_tui.app import AlignApp
from mlx_align_tui.leaving import ASKS_TO_LEAVE
from mlx_align_tui.settings import Curves, Keeper, TuiSettings
from tests.tui.conftest import play, until


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file, which is not there yet."""
    path = tmp_path / "tui.toml"
    monkeypatch.setattr(remembered, "settings_path", lambda: path)
    return path


def test_what_others_wrote_meanwhile_stays(path: Path) -> None:
    before = TuiSettings(keys={"runs.stop": "ctrl+s"}, tabs={"monitor": "log"}, recent_models=("a", "b"))
    remembered.save(before, TuiSettings(), path)
    theirs = read_toml(path)
    theirs |= {"theme": "align-light", "recent_models": ["c", "a", "b"], "of_a_newer_version": 1}
    theirs["keys"]["runs.mark"] = "m"
    theirs["tabs"]["data"] = "lint"
    theirs["curves"] = {"axis": "time"}
    path.write_text(tomli_w.dumps(theirs), encoding="utf-8")
    now = before.model_copy(deep=True)
    now.keys, now.tabs = {}, {"monitor": "config", "compare": "measures"}
    now.curves, now.advanced = Curves(smoothing=5), True
    now.remember_model("d")
    remembered.save(now, before, path)
    assert read_toml(path) == {
        "theme": "align-light",
        "advanced": True,
        "of_a_newer_version": 1,
        "keys": {"runs.mark": "m"},
        "tabs": {"monitor": "config", "compare": "measures", "data": "lint"},
        "curves": {"smoothing": 5, "axis": "time"},
        "recent_models": ["d", "a", "b", "c"],
    }


def test_a_file_that_was_broken_meanwhile_is_told_and_left_alone(root: Path, path: Path) -> None:
    async def story() -> None:
        app = AlignApp(root)
        async with app.run_test() as pilot:
            path.write_text("theme = ", encoding="utf-8")
            app.remember(advanced=True)
            await until(pilot, lambda: app._notifications)
            (note,) = app._notifications
            assert "cannot be saved: not valid TOML" in note.message
            assert path.read_text(encoding="utf-8") == "theme = "
            path.write_text('theme = "align-light"', encoding="utf-8")
        assert read_toml(path) == {"theme": "align-light", "advanced": True}

    play(story())


def test_a_slow_disk_keeps_no_key_waiting(root: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, write, texts = threading.Event(), remembered.write_text, list[str]()
    loop = threading.current_thread()

    def slow(path: Path, text: str) -> None:
        assert threading.current_thread() is not loop
        texts.append(text)
        go_on.wait()
        write(path, text)

    monkeypatch.setattr(remembered, "write_text", slow)

    async def story() -> None:
        app = AlignApp(root)
        async with app.run_test() as pilot:
            app.remember(advanced=True)
            await until(pilot, lambda: texts)
            for smoothing in (2, 3, 4):
                app.remember(curves=Curves(smoothing=smoothing))
                await pilot.pause()
            go_on.set()
            await until(pilot, lambda: remembered.load().curves.smoothing == 4)
        assert remembered.load().advanced
        assert len(texts) == 2, "of what came meanwhile the last counts"

    try:
        play(story())
    finally:
        go_on.set()


@pytest.mark.parametrize("way", [*ASKS_TO_LEAVE, "ctrl+q"])
def test_what_was_changed_last_is_kept(
    root: Path, path: Path, monkeypatch: pytest.MonkeyPatch, way: Signals | str
) -> None:
    go_on, write, close = threading.Event(), remembered.write_text, Keeper.close
    seen: list[TuiSettings] = []

    def slow(path: Path, text: str) -> None:
        go_on.wait()
        write(path, text)

    def leave(self: Keeper, settings: TuiSettings) -> AlignError | None:
        go_on.set()
        problem = close(self, settings)
        seen.append(remembered.load())
        return problem

    monkeypatch.setattr(remembered, "write_text", slow)
    monkeypatch.setattr(Keeper, "close", leave)

    async def story() -> None:
        app = AlignApp(root)
        async with app.run_test() as pilot:
            app.remember(advanced=True)
            app.remember(tabs={"monitor": "log"})
            if way == "ctrl+q":
                await pilot.press("ctrl+q")
            else:
                os.kill(os.getpid(), cast("Signals", way))
            await until(pilot, lambda: app._exit)

    try:
        play(story())
        assert [(settings.advanced, settings.tabs) for settings in seen] == [(True, {"monitor": "log"})]
    finally:
        go_on.set()


def test_what_could_not_be_saved_is_told_on_the_terminal(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(self: AlignApp) -> None:
        self.unsaved = AlignError("the settings cannot be saved: No space left on device", where="tui.toml")

    monkeypatch.setattr(AlignApp, "run", run)
    monkeypatch.setattr("mlx_align_tui.leaving.depart", lambda code: code)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    assert mlx_align_tui.run(root) == 0
    assert capsys.readouterr().err.splitlines() == [
        "error: the settings cannot be saved: No space left on device",
        "  where: tui.toml",
    ]


def test_a_disk_that_does_not_answer_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, told = threading.Event(), list[AlignError]()
    monkeypatch.setattr(remembered, "write_text", lambda path, text: go_on.wait())
    monkeypatch.setattr(remembered, "PATIENCE", 0.01)
    problem = Keeper(TuiSettings(), told.append).close(TuiSettings(advanced=True))
    go_on.set()
    assert problem is not None
    assert "does not answer" in problem.message
    assert not told
