"""How quickly Monitor attaches to a long run and draws: `python -m tests.bench.tui_speed [EVENTS]`.

It writes a log, opens it in the app without a terminal, and prints seconds from opening the screen until
the last event is drawn, and milliseconds of one redraw of all plots, in wall time and on the CPU.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

from mlx_align.runs import EventWriter
from mlx_align_tui import COLLECTING
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.curve import Curve
from mlx_align_tui.widgets.curve_grid import CurveGrid
from tests.tui.fake_engine import START, new_run, opening, update

SIZES = ((80, 24), (120, 35), (160, 45))
DRAWS = 20


def write_log(root: Path, count: int) -> None:
    """A run with so many events, nearly all of them steps."""
    run = new_run(root)
    clock = iter(range(count + 10))
    write = EventWriter(run.events, attempt=1, seq=0, clock=lambda: START + 0.5 * next(clock))
    for event in opening(run.config(), count, 0):
        write(event)
    for step in range(1, count - 4):
        write(update(step, count, False))
    write.close()


async def attach(root: Path, count: int) -> None:
    """Open the run and wait until its last event is on the screen; then draw it at every size."""
    app = AlignApp(root, settings=TuiSettings())
    async with app.run_test(size=SIZES[-1]) as pilot:
        home = app.screen
        assert isinstance(home, HomeScreen)
        while not home.entries:
            await asyncio.sleep(0.005)
        wall, work = time.perf_counter(), time.process_time()
        app.go("monitor", home.entries[0].run)
        await pilot.pause(0)
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        while screen.latest is None or screen.latest.state.step < count - 5:
            await asyncio.sleep(0.005)
        await pilot.pause(0)
        print(
            f"attach to {count:,} events: {time.perf_counter() - wall:.2f} s, "
            f"{time.process_time() - work:.2f} s on the CPU"
        )
        screen._gone.set()
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await pilot.pause(0.3)
            for smoothing in (1, 50):
                await draw(app, screen, smoothing)


async def draw(app: AlignApp, screen: MonitorScreen, smoothing: int) -> None:
    """Draw all plots some times, with what puts them on the screen."""
    grid = screen.query_one(CurveGrid)
    view = grid.view
    for _ in range(20):
        view = view.smoother(-1)
    while view.smoothing < smoothing:
        view = view.smoother(1)
    walls, works = [], []
    for _ in range(DRAWS):
        wall, work = time.perf_counter(), time.process_time()
        grid.look(view)
        for curve in grid.query(Curve):
            curve.render()
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
        await asyncio.sleep(0)
    print(
        f"redraw at {app.size.width}x{app.size.height}, {len(grid.panels)} plots, mean of {smoothing}: "
        f"{1000 * statistics.median(walls):.0f} ms, {1000 * statistics.median(works):.0f} ms on the CPU"
    )


def main() -> None:
    """Measure."""
    gc.set_threshold(*COLLECTING)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        write_log(root, count)
        asyncio.run(attach(root, count))


if __name__ == "__main__":
    main()
