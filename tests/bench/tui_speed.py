"""How quickly Monitor attaches to a long run and draws: `python -m tests.bench.tui_speed [EVENTS]`.

It writes a log and opens it in the app, without a terminal. Attaching lasts from opening the screen until the
last event is drawn; a redraw is all plots drawn anew at one size, up to the lines of text that a terminal
gets. Both are told as seconds on the clock and as seconds of CPU time, all threads together: a busy machine
makes the first much longer and the second a little.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from textual.pilot import Pilot
from textual_hires_canvas import Canvas

from mlx_align.runs import EventWriter
from mlx_align_tui import COLLECTING
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.curve import Curve, View
from mlx_align_tui.widgets.curve_grid import CurveGrid
from tests.bench.provenance import write
from tests.tui.fake_engine import START, new_run, opening, update

EVENTS = 100_000
SIZES = ((80, 24), (120, 35), (160, 45))
SMOOTHINGS = (1, 50)
ATTACHES, DRAWS = 3, 20
LAST = 5
"""So many events of the log are not steps."""

Seconds = dict[str, float]


@contextmanager
def measured(times: list[Seconds]) -> Iterator[None]:
    """Add what a block took, on the clock and on the CPU."""
    wall, work = time.perf_counter(), time.process_time()
    yield
    times.append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - work})


def median(times: list[Seconds]) -> Seconds:
    """The median of each kind of seconds."""
    return {kind: round(statistics.median(t[kind] for t in times), 4) for kind in ("wall", "cpu")}


def write_log(root: Path, count: int) -> int:
    """A run with so many events, nearly all of them steps; its bytes."""
    run = new_run(root)
    clock = iter(range(count + 10))
    writer = EventWriter(run.events, attempt=1, seq=0, clock=lambda: START + 0.5 * next(clock))
    for event in opening(run.config(), count, 0):
        writer(event)
    for step in range(1, count - LAST + 1):
        writer(update(step, count, False))
    writer.close()
    return run.events.stat().st_size


async def attach(app: AlignApp, pilot: Pilot[Any], count: int, times: list[Seconds]) -> MonitorScreen:
    """Open the run and wait until its last event is on the screen."""
    home = app.screen
    assert isinstance(home, HomeScreen)
    while not home.entries:
        await asyncio.sleep(0.005)
    with measured(times):
        app.go("monitor", home.entries[0].run)
        await pilot.pause(0)
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        while screen.latest is None or screen.latest.state.step < count - LAST:
            await asyncio.sleep(0.005)
        await pilot.pause(0)
    screen.gone.set()
    return screen


def draw(grid: CurveGrid, view: View) -> None:
    """Draw all plots, up to the lines that a terminal gets."""
    grid.look(view)
    for curve in grid.query(Curve):
        curve.render()
        for canvas in curve.query(Canvas):
            canvas.render_lines(canvas.size.region)


async def redraws(pilot: Pilot[Any], screen: MonitorScreen) -> list[dict[str, Any]]:
    """Draw at every size, plain and smoothed."""
    found = []
    grid = screen.query_one(CurveGrid)
    for size in SIZES:
        await pilot.resize_terminal(*size)
        await pilot.pause(0.3)
        for smoothing in SMOOTHINGS:
            times: list[Seconds] = []
            for _ in range(DRAWS):
                with measured(times):
                    draw(grid, View(smoothing=smoothing))
                await asyncio.sleep(0)
            place = {"width": size[0], "height": size[1], "plots": len(grid.panels), "smoothing": smoothing}
            found.append({**place, **median(times)})
    return found


async def measure(root: Path, count: int) -> dict[str, Any]:
    """Attach some times, each in an app of its own, and draw in the last of them."""
    times: list[Seconds] = []
    drawn: list[dict[str, Any]] = []
    for number in range(ATTACHES):
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=SIZES[-1]) as pilot:
            screen = await attach(app, pilot, count, times)
            if number == ATTACHES - 1:
                drawn = await redraws(pilot, screen)
    return {"attach": median(times), "attaches": times, "redraws": drawn}


def main() -> None:
    """Measure, tell, and write the result file."""
    gc.set_threshold(*COLLECTING)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        size = write_log(root, count)
        found = asyncio.run(measure(root, count))
    attached = found["attach"]
    print(f"attach to {count:,} events: {attached['wall']:.2f} s, {attached['cpu']:.2f} s on the CPU")
    for drawn in found["redraws"]:
        place = f"{drawn['width']}x{drawn['height']}, {drawn['plots']} plots, mean of {drawn['smoothing']}"
        print(f"redraw at {place}: {1000 * drawn['wall']:.0f} ms, {1000 * drawn['cpu']:.0f} ms on the CPU")
    what = "seconds until a run is on the screen, and of one redraw of all its plots"
    work = {"what": what, "events": count, "bytes": size, "cores": os.cpu_count()}
    print(write("tui-speed.json", {**work, **found}))


if __name__ == "__main__":
    main()
