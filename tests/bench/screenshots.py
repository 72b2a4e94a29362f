"""The README's pictures of the terminal UI, of a real run: `python -m tests.bench.screenshots [FOLDER]`.

Trains the embedded demo as `mlx-align orpo` does, goes through the app by keys, and writes
apps/screenshots/*.svg. With FOLDER the run is kept there, and a finished one is used again.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from textual.pilot import Pilot
from textual.screen import Screen

from mlx_align.runs import list_runs
from mlx_align_cli.saved import PAIRS
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.programs import Fit
from mlx_align_tui.screens.chat import ChatScreen
from mlx_align_tui.screens.data import DataScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.screens.new_run import NewRunScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.choice import Choice
from tests.bench.manner import align
from tests.tui.snapshots import settled, words

PICTURES = Path(__file__).parents[2] / "apps" / "screenshots"
RUNS = Path("runs")
WIDTH, HEIGHT = 120, 35
PATIENCE = 300
"""Seconds until something must have happened."""
ROW = 4
"""The row of the sample that Data shows, counted from 0."""
QUESTIONS = ("Take 116 from 507.", "Which noise comes from a lion?")
"""Of data_samples/preferences/test.jsonl: neither the base nor the adapter was trained on them."""

S = TypeVar("S", bound=Screen[Any])


def move_in(folder: Path) -> None:
    """Let the folder be all that is seen: paths are relative to it, and nobody's own settings are read."""
    for name in [name for name in os.environ if name.startswith(("MLX_ALIGN_", "XDG_", "HF_"))]:
        del os.environ[name]
    os.environ["HOME"] = str(folder)
    os.chdir(folder)


class Camera:
    """Goes through the app by keys and takes pictures.

    Args:
        pilot: of the app.
    """

    def __init__(self, pilot: Pilot[Any]) -> None:
        self.pilot, self.app = pilot, pilot.app

    async def go(self, screen: type[S], *keys: str) -> S:
        """Press keys until a screen is there."""
        await self.pilot.press(*keys)
        await self.see(lambda: isinstance(self.app.screen, screen))
        found = self.app.screen
        assert isinstance(found, screen)
        return found

    async def see(self, what: Callable[[], object]) -> None:
        """Wait for something: a busy machine takes its time to load a model."""
        async with asyncio.timeout(PATIENCE):
            while not what():
                await self.pilot.pause(0.05)

    async def take(self, name: str, height: int = HEIGHT) -> None:
        """Take a picture of the screen, once it has stopped to change."""
        await self.pilot.resize_terminal(WIDTH, height)
        picture = await settled(self.app)
        while not words(self.app)[-1].strip():  # the keys are being written anew
            picture = await settled(self.app)
        (PICTURES / f"{name}.svg").write_text(picture, encoding="utf-8")
        print(f"{name}.svg: {len(picture) / 1000:.0f} kB")


async def before_training(camera: Camera) -> None:
    """What beta does and whether the run fits; and the rows that it learns from."""
    screen = await camera.go(NewRunScreen, "n")
    await camera.pilot.press("3")
    await camera.see(lambda: isinstance(camera.app.focused, Choice))
    await camera.pilot.press("down", "down")
    await camera.see(lambda: isinstance(screen.fit, Fit))
    await camera.take("new-run", 20)
    data = await camera.go(DataScreen, "f6")
    await camera.see(lambda: data.survey is not None)
    await camera.pilot.press(*["right"] * ROW)
    await camera.see(lambda: ROW in data._rows)
    await camera.take("data", 16)
    await camera.go(NewRunScreen, "escape")
    await camera.go(HomeScreen, "escape", "escape")  # the line that one types in, and then the screen


async def after_training(camera: Camera) -> None:
    """The curves; and two questions to the model as it was and as it is, with a choice."""
    monitor = await camera.go(MonitorScreen, "enter")
    await camera.see(lambda: monitor.latest is not None and monitor.latest.state.end is not None)
    await camera.pilot.press("plus", "plus")
    await camera.take("monitor")
    (monitor.run_directory.path / PAIRS).unlink(missing_ok=True)  # kept when these pictures were taken before
    chat = await camera.go(ChatScreen, "a")
    await camera.see(lambda: chat.order)
    for question in QUESTIONS:
        if chat.choosable:
            await camera.pilot.press("greater_than_sign")
            await camera.see(lambda: chat.talk.last is not None and chat.talk.last.chosen is not None)
            camera.app.clear_notifications()
        await camera.pilot.press(*question, "enter")
        await camera.see(lambda: chat.choosable)
    await camera.take("chat", 20)


async def take_all() -> None:
    """Go through the app."""
    app = AlignApp(RUNS, settings=TuiSettings())
    async with app.run_test(size=(WIDTH, HEIGHT)) as pilot:
        camera = Camera(pilot)
        home = await camera.go(HomeScreen)
        await camera.see(lambda: home.entries)
        await before_training(camera)
        await after_training(camera)


def main() -> None:
    """Train unless there is a run, and take the pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        move_in(Path(sys.argv[1] if len(sys.argv) > 1 else temporary).resolve())
        if not any(run.summary().get("status") == "finished" for run in list_runs(RUNS)):
            align(RUNS, "orpo")
        asyncio.run(take_all())


if __name__ == "__main__":
    main()
