"""Compare: which curves lie over each other, who is marked best, which settings differ, and every key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import TabbedContent

from mlx_align.events import Eval
from mlx_align.run_state import RunState, reduce
from mlx_align.runs import RunDirectory
from mlx_align.toml import to_toml
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.following import Follower, Tail
from mlx_align_tui.screens.compare import CompareScreen
from mlx_align_tui.screens.compare.reading import (
    POLL_SECONDS,
    Reader,
    Side,
    follow,
    letter_of,
    measures_of,
    title_of,
)
from mlx_align_tui.screens.compare.tables import caution, difference_rows, measure_rows, notes
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.curve_grid import CurveGrid
from tests.tui.conftest import play, until
from tests.tui.fake_engine import launcher, new_run, written
from tests.tui.snapshots import SIZES, check_picture, seen


def change(run: RunDirectory, **sections: dict[str, object]) -> None:
    """Write other settings into a run's configuration."""
    config = run.config()
    for name, values in sections.items():
        part = getattr(config, name).model_copy(update=values)
        config = config.model_copy(update={name: part})
    (run.path / "config.toml").write_text(to_toml(config), encoding="utf-8")


def pair(root: Path) -> list[RunDirectory]:
    """Two runs of one method; the second has gone further."""
    runs = [written(root, steps=40, number=0), written(root, steps=120, number=1)]
    change(runs[1], optim={"lr": 0.002}, adapter={"rank": 32})
    return runs


async def opened(app: AlignApp, pilot: Pilot[None], runs: list[RunDirectory]) -> CompareScreen:
    app.go("compare", runs)
    await until(pilot, lambda: isinstance(app.screen, CompareScreen))
    screen = app.screen
    assert isinstance(screen, CompareScreen)
    await until(pilot, lambda: screen.sides)
    return screen


def test_letters_go_on_after_z() -> None:
    assert [letter_of(n) for n in (0, 25, 26, 52)] == ["A", "Z", "A2", "A3"]


def test_the_best_is_marked_where_there_is_one(root: Path) -> None:
    sides, news = Reader(pair(root)).read()
    assert news
    rows = {row.name: row for row in measure_rows(sides)}
    assert rows["margin"].best == (1,), "more is better"
    assert rows["loss"].best == (1,), "less is better"
    assert rows["rejected reward"].best == (), "neither is"
    assert rows["peak memory"].cells == ("3.40 GB", "3.40 GB")
    assert notes(sides) == []
    same = [dataclasses.replace(sides[0], letter=letter) for letter in "AB"]
    assert not any(row.best for row in measure_rows(same)), "nobody is best where all are equal"


def test_losses_of_two_methods_are_not_ranked(root: Path) -> None:
    runs = [written(root, method="orpo", steps=40), written(root, method="dpo", steps=120, number=1)]
    sides, _ = Reader(runs).read()
    rows = {row.name: row for row in measure_rows(sides)}
    assert rows["loss"].best == rows["margin"].best == ()
    assert rows["accuracy"].best == (1,), "a share of right answers means the same everywhere"
    assert "dpo, orpo measure different things" in notes(sides)[0]
    for source, key in measures_of(sides):
        differs = key in ("loss", "margin", "chosen_reward", "rejected_reward")
        said = "dpo, orpo measure it differently" if differs else ""
        assert caution(sides, (source, key)) == said
        assert caution(sides[:1], (source, key)) == ""


def scored(side: Side, reward: float, unscored: float | None) -> Side:
    """A run of grpo with one evaluation, which has the share of unscored answers if there is one."""
    metrics = {"reward": reward} | ({} if unscored is None else {"unscored": unscored})
    state = reduce(RunState(), Eval(step=0, rows=20, metrics=metrics))
    return dataclasses.replace(side, state=state, config={"method.name": "grpo"})


def test_a_mean_reward_of_few_answers_is_not_the_best(root: Path) -> None:
    sides, _ = Reader(pair(root)).read()
    few = [scored(sides[0], 0.5, None), scored(sides[1], 0.9, 0.78)]
    rows = {row.name: row for row in measure_rows(few)}
    assert rows["not scored"].cells == ("0.0%", "78.0%")
    assert rows["not scored"].best == (0,), "less is better"
    assert rows["reward"].best == ()
    assert "the answers that could be scored" in notes(few)[0]
    most = [scored(sides[0], 0.5, None), scored(sides[1], 0.9, 0.05)]
    assert {row.name: row for row in measure_rows(most)}["reward"].best == (1,), "as in the engine"
    assert notes(most) == []


def test_other_data_is_said(root: Path) -> None:
    sides, _ = Reader(pair(root)).read()
    other = dataclasses.replace(sides[1], env={"data_fingerprint": "2"})
    assert "different data" in notes([sides[0], other])[0]


def test_settings_that_differ_and_no_others(root: Path) -> None:
    sides, _ = Reader([*pair(root), written(root, method="grpo", steps=20, number=2)]).read()
    two = {row.name: row.cells for row in difference_rows(sides[:2])}
    assert two == {"adapter.rank": ("16", "32"), "optim.lr": (two["optim.lr"][0], "0.002")}
    assert difference_rows(sides[:1]) == []
    three = {row.name: row.cells for row in difference_rows(sides)}
    assert three["method.name"] == ("orpo", "orpo", "grpo")


def test_what_all_have_comes_first(root: Path) -> None:
    sides, _ = Reader([*pair(root), written(root, method="grpo", steps=40, number=2)]).read()
    found = measures_of(sides)
    counts = [sum(measure in side.curves for side in sides) for measure in found]
    assert counts == sorted(counts, reverse=True)
    assert title_of(measures_of(sides[:2])[0]) == "margin, held out"


def test_nothing_new_is_told_once(root: Path) -> None:
    reader = Reader(pair(root))
    first, _ = reader.read()
    second, news = reader.read()
    assert not news
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, True]


def test_long_logs_are_read_without_pauses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Follower.poll
    monkeypatch.setattr(Follower, "poll", lambda follower: real(follower, 60))
    told: list[list[Side]] = []
    waits: list[float] = []
    follow(pair(root), told.append, lambda seconds: waits.append(seconds) or seconds > 0)
    assert [side.state.step for side in told[-1]] == [40, 120]
    assert waits == [0.0] * (len(waits) - 1) + [POLL_SECONDS]
    assert len(waits) > 1, "the second log is longer than a look"


def test_a_log_that_cannot_be_read_for_a_while(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(pair(root))
    first, _ = reader.read()
    with monkeypatch.context() as broken:
        broken.setattr(Tail, "read", refused)
        lost, news = reader.read()
        assert news
        assert [side.problem for side in lost] == ["no more files", "no more files"]
        assert [side.state for side in lost] == [side.state for side in first], "what was read stays"
        assert not reader.read()[1]
    found, news = reader.read()
    assert news
    assert found == first


def refused(tail: Tail) -> str:
    raise OSError("no more files")


def test_marks_are_compared_and_every_key_does_something(root: Path, settings: TuiSettings) -> None:
    pair(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            home = app.screen_stack[1]
            assert isinstance(home, HomeScreen)
            await until(pilot, lambda: len(home.entries) == 2)
            await pilot.press("space", "space", "c")
            await until(pilot, lambda: isinstance(app.screen, CompareScreen))
            screen = app.screen
            assert isinstance(screen, CompareScreen)
            await until(pilot, lambda: screen.sides)
            assert [side.letter for side in screen.sides] == ["A", "B"]
            assert "margin, held out" in seen(app)
            grid = screen.query_one(CurveGrid)
            assert [line.label for line in grid.panels[0].lines] == ["A", "B"]
            await pilot.press("m")
            await until(pilot, lambda: screen.query_one(Choice).value == "margin, training")
            await pilot.press("M", "M")
            await until(pilot, lambda: screen.measure == screen.measures[-1])
            await pilot.press("m", "m", "plus", "L", "t")
            await until(pilot, lambda: grid.view.axis == "time")
            assert (grid.view.smoothing, grid.view.log_scale) == (5, True)
            assert settings.curves.smoothing == 5, "Monitor looks at curves the same way"
            await pilot.press("minus", "L", "t", "z", "left")
            assert grid.view.zoom is not None
            assert grid.view.cursor is not None
            await pilot.press("Z", "escape")
            assert (grid.view.zoom, grid.view.cursor, app.screen) == (None, None, screen)
            await pilot.press("2")
            await until(pilot, lambda: "★" in seen(app))
            await pilot.press("3")
            await until(pilot, lambda: "optim.lr" in seen(app))
            assert "train.seed" not in seen(app)
            await pilot.press("1", "escape")
            await until(pilot, lambda: app.screen is home)

    play(story())


def test_many_runs_are_stacked_and_none_is_cut(root: Path, settings: TuiSettings) -> None:
    runs = [written(root, steps=20, number=number) for number in range(8)]

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 60)) as pilot:
            await opened(app, pilot, runs)
            await pilot.press("2")
            await until(
                pilot, lambda: all(f" {letter} 1009-" in seen(app) for letter in "ABCDEFGH"), seen(app)
            )

    play(story())


def test_a_run_that_goes_on_is_followed(root: Path, settings: TuiSettings) -> None:
    run = written(root, "oom", steps=40)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("slow"))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, [run, written(root, steps=20, number=1)])
            before = screen.sides[0].state.step
            app.engines.start(run)
            await until(pilot, lambda: screen.sides[0].condition == "running")
            await until(pilot, lambda: screen.sides[0].state.step != before)

    play(story())


def test_a_run_that_cannot_be_read_stays_in_the_legend(root: Path, settings: TuiSettings) -> None:
    runs = [*pair(root), new_run(root, number=3)]
    (runs[0].path / "config.toml").write_text("[", encoding="utf-8")

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, runs)
            assert "not valid TOML" in seen(app)
            assert [bool(side.curves) for side in screen.sides] == [False, True, False]
            await pilot.press("2", "3", "1")
            await until(pilot, lambda: screen.query_one(TabbedContent).active == "curves")

    play(story())


def test_nothing_marked(root: Path, settings: TuiSettings) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            app.go("compare", [])
            await until(pilot, lambda: "Nothing is marked." in seen(app))
            await pilot.press("m", "z", "2", "escape")
            await until(pilot, lambda: isinstance(app.screen, HomeScreen))

    play(story())


@pytest.mark.parametrize("theme", ["align-dark", "align-light"])
def test_pictures(theme: str) -> None:
    root = Path("runs")
    runs = [*pair(root), written(root, "oom", method="dpo", steps=80, number=2)]

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings(theme=theme))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, runs)
            for tab in ("curves", "measures", "settings"):
                screen.action_tab(tab)
                for width, height in SIZES if tab == "curves" else SIZES[:1]:
                    await pilot.resize_terminal(width, height)
                    for _ in range(3):
                        await pilot.pause()
                    await check_picture(app, f"compare-{tab}-{width}x{height}-{theme}")
                    assert all(key.region.right <= app.size.width for key in app.screen.query("FooterKey"))

    play(story())
