"""What the tests of the terminal UI share."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.pilot import Pilot

from mlx_align import api
from mlx_align.runs import RunDirectory
from mlx_align_tui.live import exporting
from mlx_align_tui.live.targets import Weights
from mlx_align_tui.screens import PLACES, Place
from mlx_align_tui.settings import TuiSettings
from tests.tui.fake_engine import STARTED

Engines = Callable[[str], list["subprocess.Popen[bytes]"]]
ENGINE = Path(__file__).with_name("fake_chat.py")
EXPORT = Path(__file__).with_name("fake_export.py")
WEIGHTS = Weights(parameters=596_000_000, stored=1_192_000_000, quantised=False, adapter=9_200_000)
MACHINE = frozenset({"mlx", "torch", "peft", "llama", "hub"})
Held = tuple[threading.Event, threading.Event]
"""Set when a run is being made; to be set so that it goes on."""
DEADLINE = 30.0
"""Seconds after which something that should have happened has not."""


async def until(pilot: Pilot[Any], condition: Callable[[], object], what: str = "") -> None:
    """Let the app go on until a condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"it did not happen: {what or condition}"
        await pilot.pause(0.01)
    await pilot.pause()


def is_gone(pid: int) -> bool:
    """Whether a process has ended, also where nobody has asked yet how."""
    asked = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return not state or state.startswith("Z")


def play(story: Coroutine[Any, Any, None]) -> None:
    """Run what a test does with an app."""
    asyncio.run(story)


@pytest.fixture
def settings() -> TuiSettings:
    """Settings that are not read from, and not written to, anybody's file."""
    return TuiSettings()


@pytest.fixture
def every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for all screens, also for one that is not there: lines of keys must fit with them."""
    for name, needs in (("new_run", "nothing"), ("compare", "runs"), ("chat", "run"), ("export", "run")):
        monkeypatch.setitem(PLACES, name, Place(name, name, f"{name}:Screen", needs))  # type: ignore[arg-type]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Whether a run is being made, and what lets it go on."""
    begun, go_on, prepare = threading.Event(), threading.Event(), api.prepare

    def slowly(resolved: Any) -> RunDirectory:
        begun.set()
        go_on.wait()
        return prepare(resolved)

    monkeypatch.setattr(api, "prepare", slowly)
    yield begun, go_on
    go_on.set()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs; engines that were started by a test end with it."""
    yield tmp_path / "runs"
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    """Make every chat engine a scripted one; returns the processes that were started."""
    started: list[subprocess.Popen[bytes]] = []

    def use(script: str) -> list[subprocess.Popen[bytes]]:
        def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            assert command[-1] == "mlx_align.engine.chat"
            started.append(subprocess.Popen([sys.executable, str(ENGINE), script], **options))
            return started[-1]

        fake = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
        monkeypatch.setattr("mlx_align.chat.subprocess", fake)
        monkeypatch.setattr("mlx_align.runs.chosen.model_of", lambda run: run.path)
        return started

    return use


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the program that exports a scripted one, on a machine that is always the same."""
    monkeypatch.setattr("mlx_align_tui.screens.export.screen.here", lambda: MACHINE)
    monkeypatch.setattr("mlx_align_tui.screens.export.screen.weigh", lambda run: WEIGHTS)
    return lambda name: monkeypatch.setattr(exporting, "PROGRAM", [str(EXPORT), name])
