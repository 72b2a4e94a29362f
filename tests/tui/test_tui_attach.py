"""What attaching to a long run costs, counted instead of timed: bytes, lines, states, looks and points."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from textual_plot import PlotWidget

from mlx_align import run_state
from mlx_align.runs import RunDirectory, eventlog
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live import following
from mlx_align_tui.live.following import Follower
from mlx_align_tui.live.watching import Look, watch
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.curve import Curve
from tests.tui.conftest import play, until
from tests.tui.fake_engine import written
from tests.tui.snapshots import SIZES


class Reads:
    """Counts what is read of one file, and which lines are parsed."""

    def __init__(self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self.lines: Counter[bytes] = Counter()
        real_open, real_parse = Path.open, eventlog.parse

        def opened(path: Path, *given: Any, **named: Any) -> Any:
            file = real_open(path, *given, **named)
            return _Counted(file, self) if path == run.events else file

        def parsed(line: bytes) -> Any:
            self.lines[line] += 1
            return real_parse(line)

        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(eventlog, "parse", parsed)


class _Counted:
    def __init__(self, file: BinaryIO, reads: Reads) -> None:
        self._file, self._reads = file, reads
        self.seek, self.write = file.seek, file.write

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._reads.bytes += len(data)
        return data


def test_every_byte_is_read_once_and_every_line_parsed_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written(root, steps=300)
    lines = run.events.read_bytes().splitlines()
    monkeypatch.setattr(eventlog, "CHUNK", 4096)
    reads = Reads(run, monkeypatch)
    follower = Follower(run)
    while follower.poll(limit=17):
        pass
    assert follower.state.step == 300
    assert reads.bytes == sum(len(line) + 1 for line in lines)
    assert reads.lines == Counter(lines)
    with run.events.open("ab") as file:
        file.write(lines[-1] + b"\n")
    assert follower.poll() is not None
    assert reads.bytes == sum(len(line) + 1 for line in [*lines, lines[-1]])


def test_a_batch_makes_one_state_and_one_look(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(root, steps=300)
    made: list[object] = []
    real = run_state.replace

    def replaced(state: Any, **changes: Any) -> Any:
        made.append(state)
        return real(state, **changes)

    monkeypatch.setattr(run_state, "replace", replaced)
    looks: list[Look] = []
    watch(run, looks.append, lambda seconds: seconds > 0)
    assert [look.state.step for look in looks] == [300]
    assert len(made) < 10, "a state for each event is most of the time that attaching takes"
    assert following.BATCH >= 50_000, "each look at the screen is a drawing of all plots"


@pytest.mark.parametrize("smoothing", [1, 50])
def test_a_plot_has_at_most_two_points_a_column(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch, smoothing: int
) -> None:
    run = written(root, steps=2_000)
    settings = settings.model_copy(
        update={"curves": settings.curves.model_copy(update={"smoothing": smoothing})}
    )
    drawn: list[tuple[int, int]] = []
    real = PlotWidget.plot

    def plotted(plot: Curve, x: Any, y: Any, **named: Any) -> None:
        drawn.append((len(x), plot.columns))
        real(plot, x, y, **named)

    monkeypatch.setattr(Curve, "plot", plotted)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=SIZES[0]) as pilot:
            app.go("monitor", run)
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.latest and drawn)
            for size in SIZES:
                drawn.clear()
                await pilot.resize_terminal(*size)
                await pilot.press("z")
                await until(pilot, lambda: drawn)

    play(story())
    assert max(points for points, _ in drawn) > 50, "there is something to see"
    assert all(points <= 2 * columns for points, columns in drawn)
