"""Paths that a person types or points at: whatever the system says of them, it is told and ends nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DirectoryTree, Input

from mlx_align.paths import typed
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.programs import Planning
from mlx_align_tui.screens.data import DataScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.new_run import NewRunScreen, sources
from mlx_align_tui.screens.new_run.saving import AskNameScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.path_picker import PathPicker, is_data, is_model, is_python
from tests.tui.conftest import play, until
from tests.tui.snapshots import seen, words
from tests.tui.test_tui_new_run import FITS, opened

NOBODY = "~nobody-of-this-name/x"
LONG = "x" * 300
"""Longer than any file system allows."""


@pytest.fixture
def forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may not be entered, not even by root."""
    folder, stat = tmp_path / "forbidden", os.stat
    folder.mkdir()

    def refuse(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{folder}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refuse)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is planned, and no cache of the hub is looked into."""
    monkeypatch.setattr(Planning, "ask", lambda self, arguments: FITS)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.chdir(tmp_path)


def told(app: AlignApp) -> str:
    return "\n".join(note.message for note in app._notifications)


async def put(pilot: Pilot[None], field: Input, text: str) -> None:
    """Replace what a field has, and press Enter."""
    field.focus()
    field.value = text
    await pilot.pause()
    await pilot.press("enter")
    await pilot.pause()


@pytest.mark.parametrize("wanted", [is_model, is_data, is_python])
def test_what_cannot_be_looked_at_cannot_be_chosen(wanted: Any, forbidden: Path) -> None:
    for path in (typed(NOBODY), Path(LONG), forbidden, forbidden / "rows.jsonl"):
        assert not wanted(path)


@pytest.mark.parametrize("path", [NOBODY, LONG])
def test_the_browser_stays_at_a_path_that_leads_nowhere(root: Path, settings: TuiSettings, path: str) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            app.push_screen(PathPicker("Choose", "a model", Path.cwd(), is_model))
            await until(pilot, lambda: isinstance(app.screen, PathPicker))
            await put(pilot, app.screen.query_one(Input), path)
            await until(pilot, lambda: "no such file or folder" in told(app))
            assert isinstance(app.screen, PathPicker)

    play(story())


@pytest.mark.parametrize("wanted", [is_model, is_data])
def test_a_folder_that_may_not_be_entered_is_not_chosen(
    root: Path, settings: TuiSettings, forbidden: Path, wanted: Any
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            app.push_screen(PathPicker("Choose", "a folder", Path.cwd(), wanted))
            await until(pilot, lambda: "forbidden" in seen(app))
            tree = app.screen.query_one(DirectoryTree)
            await pilot.press("down")
            await until(pilot, lambda: tree.cursor_node and tree.cursor_node.data.path == forbidden)
            await pilot.press("space")
            await until(pilot, lambda: "cannot be chosen" in told(app))
            assert isinstance(app.screen, PathPicker)

    play(story())


def test_a_folder_that_may_not_be_entered_is_not_offered(forbidden: Path) -> None:
    assert [one.name for one in sources.data([], forbidden.parent)] == ["sample"]
    assert sources.kinds_of(NOBODY) is None
    assert sources.kinds_of(LONG) is None


def test_a_name_that_no_file_can_have_is_refused(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            screen.action_save()
            await until(pilot, lambda: isinstance(app.screen, AskNameScreen))
            for path, said in ((NOBODY, "there is no folder ~nobody"), (LONG, "File name too long")):
                await put(pilot, app.screen.query_one(Input), path)
                await until(pilot, lambda said=said: said in " ".join(words(app)), said)  # type: ignore[misc]
                assert isinstance(app.screen, AskNameScreen)

    play(story())


@pytest.mark.parametrize(("path", "said"), [(NOBODY, "no such file or folder"), (LONG, "File name too long")])
def test_data_that_is_nowhere_is_told_when_it_is_looked_at(
    root: Path, settings: TuiSettings, path: str, said: str
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            screen.action_show("data")
            await until(pilot, lambda: screen.step == "data")
            await put(pilot, screen.query_one("#data Input", Input), path)
            await until(pilot, lambda: screen.step == "method")
            assert screen.draft.data == path
            await pilot.press("f6")
            await until(pilot, lambda: isinstance(app.screen, DataScreen))
            app.screen.action_show("columns")  # type: ignore[attr-defined]
            await until(pilot, lambda: said in " ".join(words(app)))
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, NewRunScreen))

    play(story())


def test_a_function_in_the_home_of_nobody_is_told_while_one_types(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            screen.draft.method = "grpo"
            screen.draft.put("rewards.python.function", f"{NOBODY}.py:f")
            screen.changed()
            assert screen.resolved is None
            assert "cannot be read" in str(screen.fit)

    play(story())
