"""What the tests of the terminal UI share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from mlx_align_tui.screens import PLACES, Place
from mlx_align_tui.settings import TuiSettings
from tests.tui.fake_engine import STARTED

DEADLINE = 30.0
"""Seconds after which something that should have happened has not."""


async def until(pilot: Pilot[Any], condition: Callable[[], object], what: str = "") -> None:
    """Let the app go on until a condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"it did not happen: {what or condition}"
        await pilot.pause(0.01)
    await pilot.pause()


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
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder for runs; engines that were started by a test end with it."""
    yield tmp_path / "runs"
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.wait()
