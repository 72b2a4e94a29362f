"""Every screen in its odd states at 80x24: nothing lies over anything else, no text ends in a cut word."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, TabbedContent
from textual.widgets._toast import Toast

from mlx_align.errors import AlignError
from mlx_align.runs import RunDirectory
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live import exporting
from mlx_align_tui.live.environment import Examination, Finding
from mlx_align_tui.live.programs import Fit, Planning
from mlx_align_tui.live.targets import Weights
from mlx_align_tui.screens.base import AlignScreen
from mlx_align_tui.screens.chat import ChatScreen
from mlx_align_tui.screens.data import DataScreen
from mlx_align_tui.screens.doctor import DoctorScreen
from mlx_align_tui.screens.export import ExportScreen
from mlx_align_tui.screens.help import HelpScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.jump import JumpScreen
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.screens.new_run import NewRunScreen
from mlx_align_tui.screens.quit import ConfirmScreen, QuitScreen
from mlx_align_tui.settings import TuiSettings
from tests.tui import awkward, frames
from tests.tui.conftest import play, until
from tests.tui.fake_engine import launcher, new_run, written
from tests.tui.snapshots import words

THEME = "align-dark"
SMALL = (80, 24)
TABS = {
    "monitor": ("curves", "samples", "log", "config", "alerts"),
    "data": ("rows", "lint", "lengths", "columns"),
    "doctor": ("environment", "themes", "keys", "paths"),
    "compare": ("curves", "measures", "settings"),
    "export": ("choose", "progress", "exports"),
}


@asynccontextmanager
async def opened(
    root: Path, kind: type[AlignScreen] = HomeScreen, *go: Any, **options: Any
) -> AsyncIterator[Any]:
    """An app at 80x24 with this screen on top."""
    settings = TuiSettings(theme=options.pop("theme", THEME))
    app = AlignApp(root, settings=settings, **options)
    async with app.run_test(size=SMALL) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen._loaded)
        if go:
            app.go(*go)
        await until(pilot, lambda: isinstance(app.screen, kind))
        yield pilot, app


async def look(pilot: Pilot[None], app: AlignApp, name: str) -> None:
    """Check this frame."""
    await pilot.pause()
    await frames.check(app, name)


async def over(pilot: Pilot[None], app: AlignApp, name: str) -> None:
    """Check the help and jump mode over this screen."""
    screen = app.screen
    assert isinstance(screen, AlignScreen)
    screen.action_help()
    await until(pilot, lambda: isinstance(app.screen, HelpScreen))
    await look(pilot, app, f"{name}-help")
    await pilot.press("end")
    await look(pilot, app, f"{name}-help-end")
    await pilot.press("escape")
    screen.action_jump()
    await until(pilot, lambda: isinstance(app.screen, JumpScreen))
    await look(pilot, app, f"{name}-jump")
    await pilot.press("escape")
    await until(pilot, lambda: app.screen is screen)


async def tabs(pilot: Pilot[None], app: AlignApp, name: str, place: str) -> None:
    """Check every tab of a screen."""
    content = app.screen.query_one(TabbedContent)
    for tab in TABS[place]:
        content.active = tab
        await until(pilot, lambda tab=tab: content.active == tab)  # type: ignore[misc]
        await look(pilot, app, f"{name}-{tab}")


KINDS: dict[str, Callable[[Path], RunDirectory]] = {
    "failed": awkward.failed,
    "one-step": awkward.one_step,
    "huge": awkward.huge,
    "silent": awkward.silent,
    "grpo": lambda root: written(root, method="grpo"),
    "nan": lambda root: written(root, "nan"),
    "crashed": lambda root: written(root, "abort"),
}


def test_home(root: Path) -> None:
    async def story() -> None:
        async with opened(root) as (pilot, app):
            await look(pilot, app, "home-empty")
            await over(pilot, app, "home-empty")
            for number, make in enumerate((awkward.failed, awkward.one_step, awkward.huge, awkward.silent)):
                make(root, number)
            written(root, steps=20, number=5)
            app.screen.look_now()
            await until(pilot, lambda: len(app.screen.entries) == 5)
            await look(pilot, app, "home-awkward")
            await pilot.press("space", "space")
            await look(pilot, app, "home-marked")
            await over(pilot, app, "home")
            await pilot.press("slash", "x")
            await look(pilot, app, "home-filter")
            await pilot.press("escape", "d")
            await until(pilot, lambda: isinstance(app.screen, ConfirmScreen))
            await look(pilot, app, "home-delete")
            await pilot.press("escape", "ctrl+p")
            await until(pilot, lambda: isinstance(app.screen, CommandPalette))
            await until(pilot, lambda: app.screen.query_one("CommandList").option_count)
            await look(pilot, app, "palette")
            await pilot.press(*"qwen")
            await until(pilot, lambda: app.screen.query_one("CommandList").option_count)
            await look(pilot, app, "palette-runs")

    play(story())


def test_long_errors(root: Path) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=SMALL, notifications=True) as pilot:
            for number, text in enumerate(awkward.ALL[:3]):
                app.tell(AlignError(text, where=awkward.MODEL, hint=awkward.LONG))
                begin = text[:10]
                await until(pilot, lambda begin=begin: any(begin in line for line in words(app)))  # type: ignore[misc]
                await look(pilot, app, f"toasts-{number}")
                (toast,) = app.screen.query(Toast)
                assert app.screen.region.contains_region(toast.region), toast.region

    play(story())


def test_two_hundred_runs(root: Path) -> None:
    for number in range(200):
        new_run(root, "grpo" if number % 2 else "orpo", number)

    async def story() -> None:
        async with opened(root) as (pilot, app):
            await until(pilot, lambda: len(app.screen.entries) == 200)
            await pilot.press("G")
            await look(pilot, app, "home-200")

    play(story())


def test_leaving(root: Path) -> None:
    runs = [awkward.silent(root, number) for number in range(12)]

    async def story() -> None:
        async with opened(root) as (pilot, app):
            app.push_screen(QuitScreen([run.name for run in runs]))
            await until(pilot, lambda: isinstance(app.screen, QuitScreen))
            await look(pilot, app, "quit")

    play(story())


@pytest.mark.parametrize("kind", KINDS)
def test_monitor(root: Path, kind: str) -> None:
    run = KINDS[kind](root)

    async def story() -> None:
        async with opened(root, MonitorScreen, "monitor", run) as (pilot, app):
            await until(pilot, lambda: app.screen.latest is not None and not app.screen.latest.more)
            await tabs(pilot, app, f"monitor-{kind}", "monitor")
            if kind == "failed":
                await over(pilot, app, "monitor")

    play(story())


def test_monitor_that_is_live(root: Path) -> None:
    run = new_run(root)

    async def story() -> None:
        async with opened(root, launcher=launcher("slow")) as (pilot, app):
            app.screen.start(run)
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            await until(pilot, lambda: app.screen.latest and app.screen.latest.state.step > 30)
            app.clear_notifications()
            await pilot.press("space")
            await look(pilot, app, "monitor-live")
            await pilot.press("space", "ctrl+q")
            await until(pilot, lambda: isinstance(app.screen, QuitScreen))
            await look(pilot, app, "monitor-live-quit")
            await pilot.press("d")

    play(story())


def test_compare(root: Path) -> None:
    runs = [make(root, number) for number, make in enumerate((awkward.failed, awkward.huge, awkward.silent))]
    runs += [written(root, method=method, number=number) for number, method in enumerate(("dpo", "grpo"), 5)]

    async def story() -> None:
        async with opened(root, AlignScreen, "compare", runs) as (pilot, app):
            await until(pilot, lambda: app.screen.crumb == "Compare")
            await until(pilot, lambda: "finished" in str(app.screen.query_one("#legend").render()))
            await tabs(pilot, app, "compare", "compare")
            await over(pilot, app, "compare")

    play(story())


FINDINGS = [
    Finding(name, state, text, text)
    for name, state, text in zip(
        ("python", "gpu watchdog with a name", "peft"), ("ok", "note", "missing"), awkward.ALL, strict=False
    )
]


def test_doctor(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Examination, "ask", lambda self: FINDINGS)

    async def story() -> None:
        async with opened(root, DoctorScreen, "doctor") as (pilot, app):
            screen = app.screen
            await until(pilot, lambda: screen.findings and screen.keys_found and screen.places)
            await tabs(pilot, app, "doctor", "doctor")
            await over(pilot, app, "doctor")
            screen.action_tab("keys")
            await pilot.press("enter")
            await until(pilot, lambda: app.screen is not screen)
            await look(pilot, app, "doctor-rebind")

    play(story())


class Preview:
    """A preview of rows in all kinds of writing."""

    def __init__(self, path: Path, model: str, method: str) -> None:
        self._closed = threading.Event()

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says; each row at once."""
        count = len(awkward.ALL)
        yield {
            "type": "survey",
            "scores_prompt": False,
            "names": [f"{awkward.DATA}:{n + 1}" for n in range(count)],
            "prompts": [10**n for n in range(count)],
            "answers": [[10**n, 7 * 10**n] for n in range(count)],
            "findings": [
                {"code": "c", "message": text, "rows": [f"{awkward.DATA}:1"]} for text in awkward.ALL
            ],
            "faults": [{"message": text, "where": awkward.DATA, "hint": None} for text in awkward.ALL],
        }
        for number, text in enumerate(awkward.ALL):
            pieces = [(word + " ", 1) for word in text.split(" ")]
            yield {
                "type": "row",
                "index": number,
                "prompt": pieces,
                "answers": [pieces, pieces],
                "right": None,
            }
        self._closed.wait()

    def ask(self, index: int) -> None:
        """All rows were said already."""

    def close(self) -> None:
        """End it."""
        self._closed.set()


def test_data(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_align_tui.screens.data.Preview", Preview)
    path = tmp_path / f"{'long' * 30}.jsonl"
    path.write_text(json.dumps({"question" * 9: awkward.WIDE, "better": awkward.LONG, "worse": "no"}) + "\n")

    async def story() -> None:
        async with opened(root, DataScreen, "data", path) as (pilot, app):
            screen = app.screen
            await until(pilot, lambda: len(screen._rows) == len(awkward.ALL) and screen.query("#write"))
            await tabs(pilot, app, "data", "data")
            await over(pilot, app, "data")
            screen.action_show("rows")
            for number in range(len(awkward.ALL)):
                screen.action_go(number)
                await look(pilot, app, f"data-row-{number}")

    play(story())


FIT = Fit(
    "will not fit",
    20_000_000_000_000,
    16_000_000_000,
    {"weights": 19_000_000_000_000, "work": 8_000_000, "activations and more": 10**9},
    "loss",
    f"With --set {awkward.UNBROKEN}=2 it would need 12 GB. {awkward.LONG}",
    {"train.batch_size": 2},
)


def test_new_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Planning, "ask", lambda self, arguments, *, fetch=False: FIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.chdir(tmp_path)

    async def story() -> None:
        async with opened(root, NewRunScreen, "new_run") as (pilot, app):
            screen = app.screen
            screen.app.settings.recent_models = (awkward.MODEL,)
            await until(pilot, lambda: isinstance(screen.focused, OptionList) and screen.fit is FIT)
            await over(pilot, app, "new-run")
            screen.query_one("#model Input", Input).value = awkward.MODEL
            screen.query_one("#data Input", Input).value = awkward.DATA
            for step in ("model", "data", "method", "plan", "launch"):
                screen.action_show(step)
                await until(pilot, lambda step=step: screen.step == step)  # type: ignore[misc]
                await look(pilot, app, f"new-run-{step}")

    play(story())


def scripted_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Path(__file__).with_name("fake_chat.py")

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(engine), "ok"], **options)

    fake = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr("mlx_align.chat.subprocess", fake)
    monkeypatch.setattr("mlx_align.runs.chosen.model_of", lambda run: run.path)


def test_chat(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_chat(monkeypatch)
    run = written(root, steps=20)
    run.adapter.mkdir()

    async def story() -> None:
        async with opened(root, ChatScreen, "chat", run) as (pilot, app):
            chat = app.screen
            await look(pilot, app, "chat-loading")
            await until(pilot, lambda: chat.order)
            await look(pilot, app, "chat-empty")
            chat.query_one("#system", Input).value = awkward.WIDE
            question = chat.query_one("#question", Input)
            for number, text in enumerate((*awkward.ALL[:5], "markup", "same", "refuse", "die")):
                question.value = text
                question.focus()
                await pilot.press("enter")
                await until(pilot, lambda: not question.value and not chat.busy)
                await look(pilot, app, f"chat-{number}")
            await over(pilot, app, "chat")

    play(story())


@pytest.mark.parametrize("script", ["ok", "bad", "early", "compare"])
def test_export(root: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr("mlx_align_tui.screens.export.screen.here", frozenset)
    weights = Weights(parameters=10**12, stored=10**12, quantised=False, adapter=10**11)
    monkeypatch.setattr("mlx_align_tui.screens.export.screen.weigh", lambda run: weights)
    monkeypatch.setattr(exporting, "PROGRAM", [str(Path(__file__).with_name("fake_export.py")), script])
    run = awkward.failed(root)

    async def story() -> None:
        async with opened(root, ExportScreen, "export", run) as (pilot, app):
            screen = app.screen
            await until(pilot, lambda: screen.here is not None)
            await pilot.press("space", "space", "f5")
            await until(pilot, lambda: screen.jobs and not screen.busy)
            await tabs(pilot, app, f"export-{script}", "export")
            await over(pilot, app, f"export-{script}")

    play(story())


def test_a_long_name_leaves_room_for_what_matters(root: Path) -> None:
    async def story() -> None:
        async with opened(root) as (pilot, app):
            app.screen.say_where(awkward.WIDE, "[$error]✘ 3 unusable[/]")
            await pilot.pause()
            top = words(app)[0].rstrip()
            assert top.endswith("…  ✘ 3 unusable"), top
            await look(pilot, app, "home-where")

    play(story())
