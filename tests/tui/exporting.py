"""An export screen with a scripted program in a process, for tests."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mlx_align.runs import RunDirectory
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens.export import ExportScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.settings import TuiSettings
from tests.tui.chatting import save
from tests.tui.conftest import until
from tests.tui.fake_engine import written


@asynccontextmanager
async def opened(run: RunDirectory, settings: TuiSettings, size: tuple[int, int] = (80, 24)) -> Any:
    """An app with the export screen open, and everything known."""
    app = AlignApp(run.path.parent, settings=settings)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        app.go("export", run)
        await until(pilot, lambda: isinstance(app.screen, ExportScreen))
        screen = app.screen
        assert isinstance(screen, ExportScreen)
        await until(pilot, lambda: screen.here is not None)
        yield pilot, screen


def saved(root: Path) -> RunDirectory:
    """A run with one checkpoint."""
    run = written(root, steps=20)
    save(run, 20, best=20)
    return run


def states(screen: ExportScreen) -> list[str]:
    return [job.state for job in screen.jobs]


def given(run: RunDirectory, target: str) -> list[str]:
    """The arguments with which a target was exported."""
    facts = json.loads((run.path / "exports" / target / "mlx-align.json").read_text())
    return list(facts["arguments"])
