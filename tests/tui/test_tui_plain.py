"""Foreign text: no word of it becomes markup, none of its characters reaches the terminal as a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.command import CommandPalette
from textual.content import Content
from textual.pilot import Pilot
from textual.widgets import DirectoryTree, Input, OptionList

from mlx_align.errors import AlignError
from mlx_align.events import RunFailed
from mlx_align_cli.display.text import clean
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.programs import Fit, Planning
from mlx_align_tui.plain import Harmless, plain
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.new_run import NewRunScreen
from mlx_align_tui.screens.quit import ConfirmScreen, QuitScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.choice import Choice
from tests.tui.awkward import started, write
from tests.tui.conftest import play, until
from tests.tui.fake_engine import written
from tests.tui.snapshots import seen, words

ORDER = "\x1b]0;pwned\x07"
"""Gives the terminal another title."""
SEEN = clean(ORDER)
TAGS = (
    "[/",
    "a[/",
    "[$x",
    "[B]x",
    "/data/[B]x",
    "[/INST]",
    "[ b]",
    "[X=1:2]",
    "[ @click=app.exit]x",
    "[]",
    "x\\",
)
"""What other rules than Textual's take for no tag."""
PIECES = st.sampled_from(
    ["[", "]", "/", "\\", "$", "@", "#", "=", " ", "b", "click", "(", "'", '"', "\n", "\r", "\x1b"]
)
TEXTS = st.text(st.characters(exclude_categories=())) | st.lists(PIECES).map("".join)
FITS = Fit("fits", 48_000_000, 16_000_000_000, {"weights": 40_000_000}, "backward")


def in_markup(text: str) -> str:
    """A text as `plain` shows it."""
    return clean(text) + (" " if text.endswith("\\") else "")


def cells(text: str) -> int:
    """The cells of its characters, one by one."""
    return sum(map(cell_len, text))


@hypothesis_settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("[/")
@example("[b")
@example("\\")
@example("\\[b]\\")
@example("[ @click=app.exit]x")
@example("\\\n[b]")
def test_any_text_is_shown_as_it_is(text: str) -> None:
    alone = Content.from_markup(plain(text))
    assert (alone.plain, alone.spans) == (in_markup(text), [])
    shown, before, after = in_markup(text), "[b]name[/] ", " [$accent]key[/]"
    framed = Content.from_markup(f"{before}[$quiet]{plain(text)}[/]{after}{plain(text)}")
    assert framed.plain == f"name {shown} key{shown}"
    styled = [(framed.plain[span.start : span.end], span.style) for span in framed.spans]
    assert styled == [("name", "b"), *([(shown, "$quiet")] if shown else []), ("key", "$accent")]


@hypothesis_settings(max_examples=400, deadline=None)
@given(st.lists(TEXTS))
@example(["\x1b[31m", "\udcff", "a\u202eb", "\x9b", "\t", "👩\u200d👧"])
def test_a_line_keeps_its_width_and_orders_nothing(texts: list[str]) -> None:
    drawn = Harmless().apply([Segment(text) for text in texts], Color(0, 0, 0))
    said = "".join(segment.text for segment in drawn)
    assert clean(said) == said
    assert "\n" not in said
    said.encode("utf-8")
    assert [cells(segment.text) for segment in drawn] == [cells(text) for text in texts]


def test_what_is_harmless_stays() -> None:
    line = [Segment("a 你好 👩\u200d👧 e\u0301 \xa0⠿━"), Segment("[b]")]
    assert Harmless().apply(line, Color(0, 0, 0)) == line


@pytest.fixture
def _fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every model is on this disk, every plan fits."""
    monkeypatch.setattr(Planning, "ask", lambda *_: FITS)
    monkeypatch.setattr("mlx_align_tui.screens.new_run.planning.is_missing", lambda *_: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.chdir(tmp_path)


def harmless(app: AlignApp) -> bool:
    """Whether nothing that is drawn is an order."""
    return all(clean(line) == line for line in words(app))


async def new_run(app: AlignApp, pilot: Pilot[None]) -> NewRunScreen:
    await pilot.pause()
    app.go("new_run")
    await until(pilot, lambda: isinstance(app.screen, NewRunScreen) and app.screen.query(Choice))
    await until(pilot, lambda: isinstance(app.screen.focused, OptionList))
    screen = app.screen
    assert isinstance(screen, NewRunScreen)
    return screen


@pytest.mark.usefixtures("_fits")
def test_a_model_may_be_called_anything(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(120, 35)) as pilot:
            screen = await new_run(app, pilot)
            field = screen.query_one("#model Input", Input)
            for text in (*TAGS, ORDER):
                screen.action_show("model")
                field.value = text
                await until(pilot, lambda text=text: screen.draft.model == text)  # type: ignore[misc]
                screen.action_show("launch")
                wanted = f"model    {in_markup(text)}".rstrip()
                await until(pilot, lambda wanted=wanted: wanted in seen(app), wanted)  # type: ignore[misc]
                assert harmless(app)

    play(story())


@pytest.mark.parametrize("text", [*TAGS, ORDER])
def test_an_error_may_say_anything(root: Path, settings: TuiSettings, text: str) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await pilot.pause()
            app.tell(AlignError(f"no model '{text}'", where=text, hint=text))
            await until(pilot, lambda: f"no model '{clean(text)}'" in seen(app))
            assert f"at {clean(text)}" in seen(app)
            assert harmless(app)
            await pilot.press("ctrl+q")
            await until(pilot, lambda: app._exit)

    play(story())


def test_a_run_may_be_called_anything(root: Path, settings: TuiSettings) -> None:
    name = f"2026-[x=1:2]-{ORDER}"
    os.rename(written(root, steps=20).path, root / name)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(120, 35)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen.entries)
            await pilot.press("ctrl+p")
            await until(pilot, lambda: isinstance(app.screen, CommandPalette))
            await pilot.press(*"x=1:2]monitor")
            await until(pilot, lambda: f"{clean(name)}: Monitor" in seen(app))
            assert harmless(app)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            await pilot.press("enter")
            await until(pilot, lambda: clean(name) in words(app)[0])
            app.push_screen(ConfirmScreen("Delete?", name, "Delete"))
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen) and harmless(app))
            app.push_screen(QuitScreen([name]))
            await until(pilot, lambda: isinstance(app.screen, QuitScreen) and harmless(app))

    play(story())


def test_the_folder_of_runs_may_be_called_anything(
    tmp_path: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    async def story() -> None:
        app = AlignApp(Path("[X=1:2]") / "[", settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "[X=1:2]/[" in seen(app))

    play(story())


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_what_a_run_says_of_itself_orders_nothing(root: Path, settings: TuiSettings, size: Any) -> None:
    begun = started(f"orpo{ORDER}").model_copy(update={"model": f"m{ORDER}", "data": f"data{ORDER}"})
    write(root, [begun, RunFailed(step=1, kind="x", message=ORDER, exit_code=1)])

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen.entries)
            await until(pilot, lambda: f"m{SEEN}"[:8] in seen(app))
            assert harmless(app)

    play(story())


@pytest.mark.usefixtures("_fits")
def test_files_and_what_is_pasted_order_nothing(root: Path, settings: TuiSettings, tmp_path: Path) -> None:
    for name in (f"rows{ORDER}".encode(), b"rows\xff"):
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await new_run(app, pilot)
            screen.query_one("#model Input", Input).value = f"m{ORDER}"
            await until(pilot, lambda: "m]0;pwned" in seen(app))
            assert harmless(app)
            await pilot.press("b")
            await until(pilot, lambda: app.screen.query(DirectoryTree))
            await until(pilot, lambda: "rows]0;pwned" in seen(app))
            assert "rows�" in seen(app)
            assert harmless(app)

    play(story())
