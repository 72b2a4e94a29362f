"""What can go wrong around the terminal UI: hostile logs, full disks, closed folders, resizes, signals."""

from __future__ import annotations

import errno
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from textual.command import CommandPalette
from textual.widgets import TabbedContent

from mlx_align import preferences
from mlx_align.errors import AlignError
from mlx_align.events import Alert
from mlx_align.runs import EventWriter, RunDirectory, list_runs, next_numbers
from mlx_align_tui.app import AlignApp
from mlx_align_tui.leaving import ASKS_TO_LEAVE
from mlx_align_tui.live.environment import Examination
from mlx_align_tui.live.exporting import existing
from mlx_align_tui.live.runs import Index
from mlx_align_tui.screens.data import DataScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.screens.quit import QuitScreen
from mlx_align_tui.settings import TuiSettings
from tests.tui.conftest import DEADLINE, play, until
from tests.tui.fake_engine import ROOT, launcher, new_run, written
from tests.tui.snapshots import words

FOREIGN = (
    b"\x00\xff\xfe garbage \x1b[31m\n",
    b'{"v":99,"seq":5,"attempt":1,"t":1,"type":"dream","color":"blue"}\n',
    b'{"v":1,"seq":"no number","attempt":[],"t":{},"type":"step"}\n',
    b"[]\n\n\n",
    b'{"v":1,"seq":6,"attempt":1,"t":1,"type":"st',
)
"""What a log may hold that this version does not know, or nobody; the last is torn."""
NO_ROOM = OSError(errno.ENOSPC, "No space left on device", "/some/where")


def home_of(app: AlignApp) -> HomeScreen:
    assert isinstance(app.screen, HomeScreen)
    return app.screen


def told(app: AlignApp) -> str:
    return "\n".join(note.message for note in app._notifications)


def test_a_log_with_foreign_bytes_is_read_on(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=20)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: home_of(app).entries)
            app.go("monitor", run)
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen) and app.screen.latest)
            for piece in FOREIGN:
                with run.events.open("ab") as file:
                    file.write(piece)
            attempt, seq = next_numbers(run.events)
            say = EventWriter(run.events, attempt=attempt, seq=seq)
            say(Alert(code="after-all", message="it goes on"))
            say.close()
            monitor = app.screen
            assert isinstance(monitor, MonitorScreen)
            await until(pilot, lambda: any(a.code == "after-all" for a in monitor.latest.state.alerts))  # type: ignore[union-attr]
            assert monitor.latest is not None
            assert len(monitor.latest.state.steps) == 20

    play(story())


STRANGE = (
    *("[]", '"s"', '{"step": Infinity}', "[" * 100_000, "{"),
    *('{"step": "many"}', '{"metrics": [1]}', '{"metrics": {"margin": {}}}', "\udcff", ""),
)


@pytest.mark.parametrize("text", STRANGE)
def test_a_strange_summary_hides_no_other_run(root: Path, text: str) -> None:
    strange, good = written(root, steps=20), written(root, steps=20, number=1)
    (strange.path / "state.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    entries = {entry.name: entry for entry in Index(root).poll()}
    assert entries[good.name].condition == "finished"
    entry = entries[strange.name]
    assert entry.condition in ("unreadable", "finished")
    assert (entry.problem is not None) == (entry.condition == "unreadable")
    if text in ("[]", '"s"'):
        assert entry.problem == "the file is not what mlx-align writes there"


def test_a_closed_folder_hides_no_other_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, good = written(root, steps=20), written(root, steps=20, number=1)
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if isinstance(path, Path) and path.parent == closed.path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert [run.name for run in list_runs(root)] == [good.name]


def test_a_folder_of_runs_that_cannot_be_read(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(root, steps=20)
    closed = True

    def runs(folder: Path) -> list[RunDirectory]:
        if closed:
            raise PermissionError(errno.EACCES, "Permission [denied]", str(folder))
        return list_runs(folder)

    monkeypatch.setattr("mlx_align_tui.live.runs.list_runs", runs)
    monkeypatch.setattr("mlx_align_tui.palette.list_runs", runs)

    async def story() -> None:
        nonlocal closed
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "Permission [denied]" in words(app)[0])
            await pilot.press("ctrl+p")
            await until(pilot, lambda: isinstance(app.screen, CommandPalette))
            await pilot.press(*"tiny")
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            closed = False
            home_of(app).look_now()
            await until(pilot, lambda: home_of(app).entries)

    play(story())


def test_a_folder_with_brackets_in_its_name(tmp_path: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(tmp_path / "my [/b] {runs}", settings=settings)
        async with app.run_test(size=(160, 45)) as pilot:
            await until(pilot, lambda: home_of(app)._loaded)
            await until(pilot, lambda: any("[/b] {runs}" in line for line in words(app)))

    play(story())


def test_a_disk_that_refuses_to_delete(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written(root, steps=20)

    def refuse(self: RunDirectory) -> None:
        raise NO_ROOM

    monkeypatch.setattr(RunDirectory, "remove", refuse)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: home_of(app).entries)
            await pilot.press("d")
            await pilot.press("y")
            await until(pilot, lambda: "No space left" in told(app))
            assert "/some/where" in told(app)
            assert run.path.is_dir()

    play(story())


def test_a_full_disk_leaves_no_half_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.jsonl"
    preferences.keep(path, [{"role": "user", "content": "Why?"}], "Because.", "No.")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise NO_ROOM

    monkeypatch.setattr(preferences.os, "fsync", full)
    with pytest.raises(AlignError, match="No space left"):
        preferences.keep(path, [{"role": "user", "content": "Why?"}], "So.", "No.")
    assert path.read_bytes() == before


def test_an_export_that_goes_while_it_is_looked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(root, steps=20)
    (run.path / "exports" / "mlx").mkdir(parents=True)
    (run.path / "exports" / "mlx" / "mlx-align.json").write_text("{}")

    def gone(self: Path, pattern: str) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No such file", str(self))

    monkeypatch.setattr(Path, "rglob", gone)
    assert existing(run) == []


SIZES = ((40, 10), (3, 2), (80, 24))


@pytest.mark.parametrize("name", ["home", "monitor", "compare", "data", "doctor", "export", "new_run"])
def test_every_screen_bears_every_size(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    runs = [written(root, steps=40, number=number) for number in range(3)]
    monkeypatch.setattr(Examination, "ask", lambda self: [])
    arguments = {"monitor": runs[:1], "export": runs[:1], "compare": [runs]}.get(name, [])

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(160, 45)) as pilot:
            await until(pilot, lambda: home_of(app).entries)
            if name != "home":
                app.go(name, *arguments)
                await until(pilot, lambda: not isinstance(app.screen, HomeScreen))
            tabs = [pane.id for pane in app.screen.query("TabPane")]
            for tab in tabs or [None]:
                if tab is not None:
                    app.screen.query_one(TabbedContent).active = tab
                for width, height in SIZES:
                    await pilot.resize_terminal(width, height)
                    await pilot.pause()
            assert app.is_running
            assert words(app)[0].strip().startswith("mlx-align")

    play(story())


def test_a_preview_that_dies_is_told(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead:
        def __init__(self, *given: Any) -> None:
            self.given = given

        def messages(self) -> list[dict[str, Any]]:
            return [{"type": "progress", "doing": "reading rows", "done": 7, "total": 40}]

        def close(self) -> None:
            """It has ended already."""

    monkeypatch.setattr("mlx_align_tui.screens.data.Preview", Dead)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            app.go("data")
            await until(pilot, lambda: isinstance(app.screen, DataScreen))
            await until(pilot, lambda: "cannot be read" in words(app)[0])
            await until(pilot, lambda: any("has ended" in line for line in words(app)))

    play(story())


@pytest.mark.parametrize("number", ASKS_TO_LEAVE)
def test_a_signal_ends_it_and_not_the_engine(
    root: Path, settings: TuiSettings, number: signal.Signals
) -> None:
    run = new_run(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("slow"))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: home_of(app).entries)
            home_of(app).start(run)
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
            await pilot.press("ctrl+q")
            await until(pilot, lambda: isinstance(app.screen, QuitScreen))
            os.kill(os.getpid(), number)
            await until(pilot, lambda: app._exit)
            assert app.return_code == 128 + number

    play(story())
    assert run.is_running()


def screen_until(terminal: int, mark: bytes, said: bytes = b"") -> bytes:
    """What a program writes to a terminal, until it has written this."""
    end = time.monotonic() + DEADLINE
    while mark not in said:
        assert time.monotonic() < end, said[-2000:]
        if select.select([terminal], [], [], 0.1)[0]:
            said += os.read(terminal, 1 << 16)
    return said


def test_a_terminal_is_put_back(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # type: ignore[attr-defined,unused-ignore]
    before = termios.tcgetattr(theirs)
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    command = [sys.executable, "-m", "mlx_align_cli.main", "tui", "--runs-dir", str(tmp_path / "runs")]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    try:
        said = screen_until(ours, b"No runs here yet")
        assert b"\x1b[?1049h" in said
        assert termios.tcgetattr(theirs)[3] != before[3]
        process.terminate()
        screen_until(ours, b"\x1b[?1049l")
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM
        assert termios.tcgetattr(theirs)[3] == before[3]
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
