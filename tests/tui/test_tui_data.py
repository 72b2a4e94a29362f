"""Data: rows with their tokens, what is odd, lengths with a line that moves, and columns of other names."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from mlx_align.config import DataConfig, MethodConfig, ModelConfig, RunConfig
from mlx_align.data.sources import data_files
from mlx_align.errors import AlignError, DataError
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens.data import DataScreen, Side
from mlx_align_tui.screens.data_parts.mapping import Columns, Mapping, target_of, write_copy
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.histogram import LengthPlot
from tests.tui.conftest import play, until
from tests.tui.snapshots import SIZES, check_picture, in_one_line, seen, words

ROWS = 40
LENGTHS = [10 + (7 * number) % 50 for number in range(ROWS)]
SURVEY: dict[str, Any] = {
    "type": "survey",
    "scores_prompt": False,
    "names": [f"some/rows.jsonl:{number + 1}" for number in range(ROWS)],
    "prompts": LENGTHS,
    "answers": [[length // 2 + 3, length // 3 + 2] for length in LENGTHS],
    "findings": [
        {
            "code": "duplicate-rows",
            "message": "2 of 40 rows repeat an earlier one word for word and count double",
            "rows": ["some/rows.jsonl:8", "some/rows.jsonl:31"],
        }
    ],
    "faults": [{"message": "the answer is empty", "where": "some/rows.jsonl:41, key 'chosen'", "hint": None}],
}
DPO = RunConfig(
    model=ModelConfig(path="owner/name", revision="v2"),
    method=MethodConfig.model_validate({"name": "dpo", "beta": 0.3}),
    data=DataConfig(max_length=90),
)
COLUMNS = {"question": "Why [is] it?", "better": "Because.", "worse": "No idea."}


def row(index: int) -> dict[str, Any]:
    return {
        "type": "row",
        "index": index,
        "prompt": [
            ("<|im_start|>", 1),
            ("user\n", 1),
            (f"Question {index}: [b]why[/]", 7),
            ("<|im_end|>\n", 1),
        ],
        "answers": [[("Because", 1), (" 🙂", 3), ("<|im_end|>", 1)], [("\x1b[31mNo", 1), ("<|im_end|>", 1)]],
        "right": None,
    }


class Scripted:
    """A preview that says what is written above; `failing` raises instead."""

    failing: AlignError | None = None
    opened: list[tuple[Path, ModelConfig, MethodConfig]]

    def __init__(self, path: Path, model: ModelConfig, method: MethodConfig) -> None:
        self.opened.append((path, model, method))
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._messages.put({"type": "progress", "doing": "reading rows", "done": 7, "total": ROWS})
        self._messages.put(SURVEY)

    def messages(self) -> Iterator[dict[str, Any]]:
        if self.failing is not None:
            raise self.failing
        while (message := self._messages.get()) is not None:
            yield message

    def ask(self, index: int) -> None:
        self._messages.put(row(index))

    def close(self) -> None:
        self._messages.put(None)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setattr("mlx_align_tui.screens.data.Preview", Scripted)
    monkeypatch.setattr(Scripted, "failing", None)
    monkeypatch.setattr(Scripted, "opened", [], raising=False)
    return Scripted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(COLUMNS) + "\n", encoding="utf-8")
    return path


async def opened(app: AlignApp, pilot: Pilot[None], *arguments: Any) -> DataScreen:
    await pilot.pause()
    app.go("data", *arguments)
    await until(pilot, lambda: isinstance(app.screen, DataScreen))
    screen = app.screen
    assert isinstance(screen, DataScreen)
    await until(pilot, lambda: screen._rows or (screen.survey is None and Scripted.failing is not None))
    await until(pilot, lambda: screen.query("#write"))
    return screen


def tokens_of(screen: DataScreen, side: str) -> str:
    shown = screen.query_one(f"#{side} .tokens", Static).content
    assert isinstance(shown, Text)
    return shown.plain


def test_rows_are_gone_through_with_keys(scripted: type[Scripted], root: Path, file: Path) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, file, DPO)
            assert scripted.opened == [(file, DPO.model, DPO.method)]
            assert screen.query_one(LengthPlot).limit == 90
            assert "40 rows for dpo" in words(app)[0]
            assert "1 unusable" in words(app)[0]
            for key, place in (("right", 1), ("l", 2), ("left", 1), ("end", 39), ("right", 39), ("home", 0)):
                await pilot.press(key)
                await until(pilot, lambda place=place: f"Question {place}:" in tokens_of(screen, "prompt"))  # type: ignore[misc]
            assert f"row 1 of {ROWS}" in seen(app)
            assert "[b]why[/]" in tokens_of(screen, "prompt"), "what a file says is never markup"
            assert tokens_of(screen, "rejected").startswith("␛[31mNo"), "nor a command to the terminal"

    play(story())


def test_a_finding_leads_to_its_row(scripted: type[Scripted], root: Path, file: Path) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, file)
            await pilot.press("2")
            await until(pilot, lambda: isinstance(screen.focused, OptionList))
            shown = seen(app)
            assert "rows.jsonl:41, key 'chosen': the answer is empty" in shown
            assert "count double" in shown
            await pilot.press("end", "enter")
            await until(pilot, lambda: "Question 30:" in tokens_of(screen, "prompt"))
            await until(pilot, lambda: isinstance(screen.focused, Side))

    play(story())


def test_the_line_moves_and_says_how_many_rows_are_longer(
    scripted: type[Scripted], root: Path, file: Path
) -> None:
    used: list[tuple[str, str]] = []

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, file, RunConfig(), lambda *what: used.append(what))
            plot = screen.query_one(LengthPlot)
            await pilot.press("3")
            await until(pilot, lambda: screen.focused is plot)
            assert "every row fits" in seen(app)
            await pilot.press("right")
            await pilot.pause()
            assert plot.limit == RunConfig().data.max_length, "longer is not shorter"
            whole = np.array(LENGTHS) + np.array(LENGTHS) // 2 + 3
            await pilot.press("left", *["left"] * 25)
            await until(pilot, lambda: plot.limit == plot.high - 26)
            longer = int((whole > plot.limit).sum())
            assert 0 < longer < ROWS
            assert f"{longer} of {ROWS} rows" in seen(app)
            before = plot.limit
            await pilot.press("right")
            await until(pilot, lambda: plot.limit == before + 1)
            await pilot.press("enter")
            await until(pilot, lambda: used == [("data.max_length", str(before + 1))])
            await pilot.press("end")
            await until(pilot, lambda: plot.limit == whole.max())
            assert plot.beyond == 0
            await pilot.press(*["H"] * 20)
            await until(pilot, lambda: plot.limit == 1)
            assert plot.beyond == ROWS

    play(story())


def test_a_file_with_other_columns_is_copied_with_our_names(
    scripted: type[Scripted], root: Path, file: Path
) -> None:
    before = file.read_bytes()
    used: list[tuple[str, str]] = []

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, file, RunConfig(), lambda *what: used.append(what))
            await pilot.press("4")
            await until(pilot, lambda: isinstance(screen.focused, Choice))
            shown = seen(app)
            assert "rows.mapped.jsonl" in shown
            assert "Why [is] it?" in shown
            await pilot.press("left")  # no prompt: whole conversations have theirs inside
            mapping = screen.query_one(Mapping)
            await until(pilot, lambda: mapping.mapping == {"chosen": "better", "rejected": "worse"})
            await pilot.press("right", "tab", "right")
            await until(pilot, lambda: "one column cannot stand for two" in seen(app))
            assert screen.query_one("#write").disabled
            await pilot.press("left")
            await until(pilot, lambda: not screen.query_one("#write").disabled)
            screen.query_one("#write").focus()
            await pilot.press("enter")
            copy = file.with_name("rows.mapped.jsonl")
            await until(pilot, lambda: used == [("data.path", str(copy))])
            assert scripted.opened[-1][0] == copy
            assert json.loads(copy.read_text()) == {
                "prompt": "Why [is] it?",
                "chosen": "Because.",
                "rejected": "No idea.",
            }

    play(story())
    assert file.read_bytes() == before


def test_a_folder_is_copied_with_what_is_held_out(
    scripted: type[Scripted], root: Path, tmp_path: Path
) -> None:
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({**COLUMNS, "question": name}) + "\n")

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, tmp_path)
            await pilot.press("4")
            await until(pilot, lambda: isinstance(screen.focused, Choice))
            assert "train.jsonl and valid.jsonl" in seen(app)
            assert "will be written: mapped/" in seen(app)
            await pilot.press("enter", "enter", "down")
            assert screen.focused is screen.query_one("#write")
            await pilot.press("enter")
            await until(pilot, lambda: scripted.opened[-1][0] == tmp_path / "mapped")
            files = data_files(screen.path)
            assert [json.loads(file.read_text())["prompt"] for file in files] == ["train", "valid"]

    play(story())


def test_copies_are_written_all_or_none(tmp_path: Path) -> None:
    files = [tmp_path / "train.jsonl", tmp_path / "valid.jsonl"]
    files[0].write_text('{"question": "Why?"}\n')
    files[1].write_text('{"query": "Why?"}\n')
    with pytest.raises(DataError, match="the row has no 'question'") as caught:
        write_copy(files, {"prompt": "question"}, target_of(files))
    assert "valid.jsonl:1" in str(caught.value.where)
    assert sorted(tmp_path.iterdir()) == files, "nothing is left of the first"
    (tmp_path / "mapped").mkdir()
    assert target_of(files) == tmp_path / "mapped-2"
    files[1].write_text('{"question": "Who?"}\n')
    with pytest.raises(DataError, match="of this name already"):
        write_copy(files, {"prompt": "question"}, tmp_path / "mapped")


def test_data_that_cannot_be_read_says_why(scripted: type[Scripted], root: Path, file: Path) -> None:
    scripted.failing = DataError("byte 3 is not [b]UTF-8", where="rows.jsonl:1", hint="Save it as UTF-8.")

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, file)
            await until(pilot, lambda: "byte 3 is not [b]UTF-8" in seen(app))
            assert "Save it as UTF-8." in seen(app)
            await pilot.press("right", "t", "3", "left", "2", "enter")
            assert app.screen is screen

    play(story())


def test_columns_are_looked_for_in_a_thread(
    scripted: type[Scripted], root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def look(path: Path) -> Columns:
        threads.append(threading.current_thread())
        return Columns((path,), COLUMNS)

    monkeypatch.setattr("mlx_align_tui.screens.data.look", look)

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(app, pilot, file)
        assert threads
        assert threading.main_thread() not in threads

    play(story())


def test_columns_that_cannot_be_read_say_why(scripted: type[Scripted], root: Path, tmp_path: Path) -> None:
    file = tmp_path / "[b]rows.jsonl"
    file.write_text("[1, 2]\n", encoding="utf-8")

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            app.go("data", file)
            await until(pilot, lambda: isinstance(app.screen, DataScreen) and app.screen.query("#columns"))
            screen = app.screen
            assert isinstance(screen, DataScreen)
            screen.action_show("columns")
            await until(pilot, lambda: "a list, not an object" in seen(app))
            assert "[b]rows.jsonl:1" in seen(app).replace("\n", "").replace(" ", ""), "it may be on two lines"
            assert "jq -c" in seen(app)

    play(story())


def test_a_preview_that_cannot_be_started_is_told(
    root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("mlx_align_tui.live.programs.start", refuse)

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            app.go("data", file)
            await until(pilot, lambda: "temporarily unavailable" in seen(app))
            assert "cannot be read" in words(app)[0]

    play(story())


def test_texts_name_the_keys_that_are_bound(
    scripted: type[Scripted], root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = {**SURVEY, "names": [], "prompts": [], "answers": [], "findings": []}
    monkeypatch.setattr("tests.tui.test_tui_data.SURVEY", nothing)

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings(keys={"data.lint_tab": "x", "data.columns_tab": "f7"}))
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            app.go("data", file)
            await until(pilot, lambda: "Lint (x) says why" in in_one_line(app))
            assert "Columns (F7)" in in_one_line(app)

    play(story())


class Counted(int):
    """A number that counts how often it is looked at."""

    looks = 0

    def __lt__(self, other: int) -> bool:
        Counted.looks += 1
        return int(self) < other

    def __gt__(self, other: int) -> bool:
        Counted.looks += 1
        return int(self) > other

    def __mul__(self, other: int) -> int:
        Counted.looks += 1
        return int(self) * other


def test_moving_the_line_does_not_go_through_all_rows(
    scripted: type[Scripted], root: Path, file: Path
) -> None:
    rows = [Counted(number % 997) for number in range(60_000)]

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, file)
            plot = screen.query_one(LengthPlot)
            await pilot.press("3")
            await until(pilot, lambda: screen.focused is plot)
            plot.show({"prompt": rows}, rows, 500)
            await until(pilot, lambda: "median 497, longest 996 tokens" in seen(app))
            Counted.looks, before = 0, plot.beyond
            plot.action_move(-10)
            await pilot.pause()
            assert plot.beyond > before
            assert Counted.looks < len(rows) // 4

    play(story())


@pytest.mark.parametrize("theme", ["align-dark", "align-light"])
def test_data_pictures(scripted: type[Scripted], root: Path, file: Path, theme: str) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings(theme=theme))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, file)
            for width, height in SIZES:
                await pilot.resize_terminal(width, height)
                for number, tab in enumerate(("rows", "lint", "lengths", "columns"), 1):
                    if tab != "rows" and width > 80 and tab != "lengths":
                        continue
                    await pilot.press(str(number))
                    await until(pilot, lambda tab=tab: screen.query_one(f"#{tab}").display)  # type: ignore[misc]
                    screen.query_one(LengthPlot).limit = 60
                    screen.query_one(LengthPlot)._moved()
                    await pilot.pause()
                    await check_picture(app, f"data-{tab}-{width}x{height}-{theme}")

    play(story())


def test_columns_may_hold_and_be_called_anything(
    scripted: type[Scripted], root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "[X=1:2].jsonl"
    cut = "x" * 194 + "[/INST] and more"  # the sample ends within the tag
    path.write_text(json.dumps({"[/": cut, "[B]": "\x1b]0;pwned\x07", "a\\": "[$x"}) + "\n", encoding="utf-8")

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings())
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, path, DPO)
            screen.action_show("columns")
            choice = screen.query_one("#column-prompt", Choice)
            for column, sample in (("[/", "x" * 20), ("[B]", "␛]0;pwned␇"), ("a\\", "[$x")):
                while choice.value != column:
                    choice.action_step(1)
                await until(pilot, lambda sample=sample: sample in seen(app), sample)  # type: ignore[misc]
                assert f"‹ {column}" in seen(app)
            assert "[X=1:2].jsonl" in seen(app)

    play(story())
