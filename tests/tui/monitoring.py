"""Monitor, opened by a test."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot

from mlx_align.runs import RunDirectory
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens.monitor import MonitorScreen
from tests.tui.conftest import until


async def opened(pilot: Pilot[Any], app: AlignApp, run: RunDirectory) -> MonitorScreen:
    """The screen, once it has looked at its run."""
    app.go("monitor", run)
    await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.latest)
    screen = app.screen
    assert isinstance(screen, MonitorScreen)
    return screen
