"""Doctor and settings: what is found, colours that stay, keys that are changed, places and sizes."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import DataTable, OptionList, TabbedContent

import mlx_align_tui
from mlx_align.errors import AlignError
from mlx_align_tui import settings as remembered
from mlx_align_tui.app import AlignApp
from mlx_align_tui.keymap import MARK, Key, all_keys, in_markdown, said, shown
from mlx_align_tui.live import environment, programs
from mlx_align_tui.live.environment import Examination, Finding
from mlx_align_tui.plain import plain
from mlx_align_tui.screens.doctor import DoctorScreen
from mlx_align_tui.screens.doctor.keys import in_the_way, names, pressed
from mlx_align_tui.screens.doctor.places import Place, bytes_in, places
from mlx_align_tui.screens.doctor.rebinding import RebindScreen
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.settings import TuiSettings
from tests.tui.conftest import DEADLINE, play, until
from tests.tui.snapshots import SIZES, check_picture, seen

FOUND = [
    Finding("mlx-align", "ok", "0.1.0"),
    Finding("python", "ok", "3.12.1 (/usr/bin/python3)"),
    Finding("system", "ok", "macOS-26.1-arm64"),
    Finding("memory", "ok", "16.00 GB, 10 processor cores"),
    Finding("device", "ok", "mlx:gpu Apple M4"),
    Finding(
        "gpu watchdog", "note", "ends long GPU work", "Keep the display awake, or train in smaller batches."
    ),
    Finding("peft", "missing", "not installed", "pip install 'mlx-align[torch]'"),
]


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process that loads frameworks."""
    monkeypatch.setattr(Examination, "ask", lambda self: list(FOUND))


@pytest.fixture
def keys() -> dict[str, Key]:
    return {key.name: key for key in all_keys()}


async def opened(app: AlignApp, pilot: Pilot[None]) -> DoctorScreen:
    app.go("doctor")
    await until(pilot, lambda: isinstance(app.screen, DoctorScreen))
    screen = app.screen
    assert isinstance(screen, DoctorScreen)
    await until(pilot, lambda: screen.findings and screen.keys_found and screen.places)
    return screen


def point_at(screen: DoctorScreen, name: str) -> None:
    table = screen.query_one("#key-table", DataTable)
    table.move_cursor(row=[key.name for key in screen.keys_found].index(name))


def test_every_screen_has_its_keys_here(keys: dict[str, Key]) -> None:
    assert {
        "app.back",
        "app.palette",
        "runs.stop",
        "runs.demo",
        "curves.log",
        "compare.measure",
        "doctor.again",
    } <= set(keys)
    assert keys["runs.stop"].default == "s"
    assert keys["runs.stop"].owner is HomeScreen


def test_a_key_has_one_name_however_it_is_written() -> None:
    assert names("question_mark,f1") == names("?, f1")
    assert names("D,shift+d") == {"D"}
    assert shown("D,shift+d") == "D"
    assert pressed("D") == "D,shift+d"
    assert pressed("ctrl+s") == "ctrl+s"


@pytest.mark.parametrize(
    ("name", "new", "other"),
    [
        ("runs.stop", "r", "runs.resume"),  # on the same screen
        ("runs.stop", "question_mark", "app.help"),  # on every screen
        ("app.help", "s", "monitor.stop"),  # the other way round
        ("runs.stop", "ctrl+p", "app.palette"),  # of the app
        ("runs.stop", "enter", "runs.open"),  # of a widget on the same screen
        ("runs.open", "escape", "app.back"),  # of a widget, on every screen
        ("runs.stop", "D,shift+d", "app.doctor"),
        ("runs.stop", "L,shift+l", None),  # of another screen
        ("runs.stop", "ctrl+s", None),
        ("new.launch", "space", "choice.next"),  # of a widget that stands on the screen, in other widgets
        ("export.verify", "left", "choice.before"),
        ("new.plan", "b", "new.browse"),
        ("runs.stop", "b", None),  # of a widget that stands elsewhere
        ("form.next", "down,enter,j", "vim.down"),
        ("runs.stop", "y", None),  # of a question, below which nothing else can be pressed
    ],
)
def test_what_is_in_the_way(keys: dict[str, Key], name: str, new: str, other: str | None) -> None:
    found = in_the_way(keys[name], new, list(keys.values()), {})
    assert (found.name if found else None) == other


def test_a_key_that_was_given_away_is_free(keys: dict[str, Key]) -> None:
    every = list(keys.values())
    assert in_the_way(keys["runs.stop"], "r", every, {"runs.resume": "u"}) is None
    taken = in_the_way(keys["runs.stop"], "u", every, {"runs.resume": "u"})
    assert taken is keys["runs.resume"]


def test_a_key_that_was_given_away_does_not_come_back_twice(keys: dict[str, Key]) -> None:
    every, changed = list(keys.values()), {"runs.stop": "u", "runs.resume": "s"}
    assert in_the_way(keys["runs.stop"], "s", every, changed) is keys["runs.resume"]
    assert all(in_the_way(key, key.default, every, {}) is None for key in every), "as they are they are meant"


def test_every_key_can_be_changed(keys: dict[str, Key]) -> None:
    assert keys
    nameless = [
        (owner.__name__, binding.key)
        for owner in {kind for key in keys.values() for kind in (key.owner, *type(key.owner).__mro__)}
        for binding in vars(owner).get("BINDINGS", ())
        if isinstance(binding, Binding) and not binding.id
    ]
    assert nameless == []


def test_texts_name_keys_that_there_are(keys: dict[str, Key]) -> None:
    folder = Path(mlx_align_tui.__file__).parent
    named = {found for path in folder.rglob("*.py") for found in MARK.findall(path.read_text())}
    assert {name for name, _ in named} <= {*keys}
    assert len(named) > 20


def test_a_text_names_the_key_that_is_bound_now(keys: dict[str, Key]) -> None:
    text = "<<export.go>> or <<app.help>>, <<app.help!>>; <<runs.stop>>, <<no.body>>"
    assert said(text, {}) == "F5 or ?, F1; s, <<no.body>>"
    assert said(text, {"export.go": "ctrl+g", "runs.stop": "S,shift+s"}) == "ctrl+g or ?, F1; S, <<no.body>>"
    assert said("[b]<<runs.stop>>[/]", {"runs.stop": "left_square_bracket"}) == rf"[b]{plain('[')}[/]"
    assert said("**<<chat.left>>**", {}, in_markdown) == r"**\<**"


def test_what_is_found_and_what_to_do(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))
            screen = await opened(app, pilot)
            text = seen(app)
            assert "1 missing" in text
            assert "pip install 'mlx-align[torch]'" in text
            await pilot.press("r")
            await until(pilot, lambda: screen.findings)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))

    play(story())


def test_colours_change_as_one_moves_and_stay(root: Path) -> None:
    async def story() -> None:
        app = AlignApp(root)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("2", "j")
            await until(pilot, lambda: app.theme == "align-light")
            await until(pilot, lambda: remembered.load().theme == "align-light")
            await pilot.press("down")
            await until(pilot, lambda: app.theme == "align-contrast")
            assert screen.query_one(OptionList).highlighted == 2
            await pilot.press("1", "escape")
            assert app.theme == "align-contrast"

    play(story())


def test_a_key_is_changed_used_kept_and_given_back(root: Path) -> None:
    async def story() -> None:
        app = AlignApp(root)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("3")
            point_at(screen, "doctor.paths_tab")
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, RebindScreen))
            await pilot.press("q")
            await until(pilot, lambda: "q is Quit already (app.quit)" in seen(app))
            await pilot.press("p")
            await until(pilot, lambda: app.screen is screen)
            await until(pilot, lambda: remembered.load().keys == {"doctor.paths_tab": "p"})
            assert "(was 4)" in seen(app)
            await pilot.press("4")
            assert screen.query_one(TabbedContent).active == "keys", "it means nothing any more"
            await pilot.press("p")
            await until(pilot, lambda: screen.query_one(TabbedContent).active == "paths")
            await pilot.press("3")
            point_at(screen, "doctor.paths_tab")
            await pilot.press("x")
            await until(pilot, lambda: remembered.load().keys == {})
            await pilot.press("4")
            await until(pilot, lambda: screen.query_one(TabbedContent).active == "paths")

    play(story())


def test_a_key_that_is_taken_is_not_given_back(root: Path, settings: TuiSettings) -> None:
    settings.keys = {"runs.stop": "u", "runs.resume": "s"}

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("3")
            point_at(screen, "runs.stop")
            await pilot.press("x")
            await until(pilot, lambda: any("s is Resume now" in note.message for note in app._notifications))
            assert settings.keys == {"runs.stop": "u", "runs.resume": "s"}
            point_at(screen, "runs.resume")
            await pilot.press("x")
            point_at(screen, "runs.stop")
            await pilot.press("x")
            assert settings.keys == {}

    play(story())


def test_tabs_and_texts_name_keys_that_were_changed(root: Path, settings: TuiSettings) -> None:
    settings.keys = {"runs.demo": "ctrl+g", "doctor.keys_tab": "w", "app.help": "f9"}

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: "ctrl+g  try the demo" in seen(app))
            screen = await opened(app, pilot)
            await until(pilot, lambda: "1 environment" in seen(app) and "w keys" in seen(app))
            screen.rebind(next(key for key in screen.keys_found if key.name == "runs.demo"), None)
            await pilot.press("escape")
            await until(pilot, lambda: "d  try the demo" in seen(app))
            await pilot.press("f9")
            await until(pilot, lambda: "Mark runs with space" in seen(app))

    play(story())


def test_escape_leaves_a_key_as_it_is(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("3", "enter")
            await until(pilot, lambda: isinstance(app.screen, RebindScreen))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is screen)
            assert settings.keys == {}

    play(story())


def test_runs_in_the_home_of_nobody_are_a_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places(Path("~nobody-of-this-name/x"))[0].path == tmp_path / "~nobody-of-this-name/x"


def test_places_with_their_sizes(root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_paths: list[Path] = []
    monkeypatch.setattr(
        "mlx_align_tui.screens.doctor.screen.open_here", lambda path: bool(opened_paths.append(path))
    )
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(b"x" * 3000)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(100, 30)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("4")
            await until(pilot, lambda: "3 KB" in seen(app))
            assert str(root) in seen(app).replace("\n", "").replace(" ", "")
            await pilot.press("enter")
            await until(pilot, lambda: opened_paths == [root])
            await until(pilot, lambda: app.clipboard == str(root), "there is no desktop, so it is copied")
            assert [place.name for place, _ in screen.places][:2] == ["runs", "cache"]
            await pilot.press("j", "enter")
            await until(pilot, lambda: any("is not there yet" in note.message for note in app._notifications))
            assert len(opened_paths) == 1

    play(story())


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"12345")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    link = (tmp_path / "d" / "loop").lstat().st_size
    assert bytes_in(tmp_path / "d", lambda: False) in (5, 5 + link)
    assert bytes_in(tmp_path / "d" / "a", lambda: False) == 5
    assert bytes_in(tmp_path / "none", lambda: False) is None
    assert bytes_in(tmp_path / "d", lambda: True) is None


def test_the_process_is_asked_and_its_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    told = json.dumps([vars(finding) for finding in FOUND])
    monkeypatch.setattr(environment, "PROGRAM", ("-c", f"print({told!r})"))
    assert Examination(tmp_path).ask() == FOUND
    monkeypatch.setattr(environment, "PROGRAM", ("-c", "import sys; sys.exit('no library')"))
    with pytest.raises(AlignError, match="no library"):
        Examination(tmp_path).ask()
    closed = Examination(tmp_path)
    closed.close()
    assert closed.ask() == []


def test_who_asks_again_leaves_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    processes: list[subprocess.Popen[str]] = []
    begun, begin = threading.Event(), programs.start

    def start(*given: Any, **options: Any) -> subprocess.Popen[str]:
        processes.append(begin(*given, **options))
        begun.set()
        return processes[-1]

    monkeypatch.setattr(programs, "start", start)
    monkeypatch.setattr(environment, "PROGRAM", ("-c", "import threading; threading.Event().wait()"))
    examination, answers = Examination(tmp_path), list[list[Finding]]()
    first = threading.Thread(target=lambda: answers.append(examination.ask()))
    try:
        first.start()
        assert begun.wait(DEADLINE)
        monkeypatch.setattr(environment, "PROGRAM", ("-c", "print('[]')"))
        answers.append(examination.ask())
        first.join(DEADLINE)
        assert answers == [[], []]
        assert [process.returncode for process in processes] == [-signal.SIGKILL, 0]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("theme", ["align-dark", "align-light"])
def test_pictures(theme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown_places = [
        (Place("runs", Path("/home/me/project/runs"), "configurations, logs, checkpoints"), 1_234_567_890),
        (Place("cache", Path("/home/me/.cache/mlx-align"), "what later runs can use again"), None),
        (
            Place(
                "models",
                Path("/home/me/.cache/huggingface/hub/and/a/path/that/is/too/long/for/a/line"),
                "bases",
            ),
            42,
        ),
    ]
    monkeypatch.setattr(DoctorScreen, "_measure", lambda self: shown_places)

    async def story() -> None:
        app = AlignApp(Path("runs"), settings=TuiSettings(theme=theme, keys={"app.help": "f2"}))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            for tab in ("environment", "themes", "keys", "paths"):
                screen.action_tab(tab)
                for width, height in SIZES if tab == "environment" else SIZES[:1]:
                    await pilot.resize_terminal(width, height)
                    for _ in range(3):
                        await pilot.pause()
                    if tab != "keys":  # which grows with every screen
                        await check_picture(app, f"doctor-{tab}-{width}x{height}-{theme}")
                    assert all(key.region.right <= app.size.width for key in app.screen.query("FooterKey"))

    play(story())
