"""Monitor: what it shows of a run, and every key of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from textual.widgets import Log, Static, TabbedContent

from mlx_align.engine.launch import Death
from mlx_align.events import Alert, Memory
from mlx_align.run_state import History, RunState
from mlx_align.runs import RunDirectory
from mlx_align_cli.display.facts import Pace
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live.health import Finding
from mlx_align_tui.live.watching import Look
from mlx_align_tui.screens.monitor import texts
from mlx_align_tui.screens.monitor.plots import plots_of
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.curve import Curve, CurvePanel
from mlx_align_tui.widgets.curve_grid import CurveGrid
from tests.tui.conftest import play, until
from tests.tui.fake_engine import Fake, launcher, new_run, written
from tests.tui.monitoring import opened
from tests.tui.snapshots import SIZES, braille, check_picture, footer_fits, seen, words

USED = "used: at most 3.40 GB of 16.00 GB, 2.10 GB when last measured"


def test_each_key_of_the_curves(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=400)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(100, 30)) as pilot:
            screen = await opened(pilot, app, run)
            grid = screen.query_one(CurveGrid)
            await until(pilot, lambda: braille(app) > 50)
            await pilot.press("plus", "plus", "plus", "minus")
            assert grid.view.smoothing == 10
            await pilot.press("L")
            assert grid.view.log_scale
            await pilot.press("t")
            assert grid.view.axis == "time"
            assert settings.curves.model_dump() == {"smoothing": 10, "log_scale": True, "axis": "time"}
            await pilot.press("L", "t", "left", "left", "left")
            first = grid.view.cursor
            assert first is not None
            assert 370 < first < 400
            await pilot.press("shift+left", "right")
            assert grid.view.cursor is not None
            assert grid.view.cursor < first
            await pilot.press("z", "z")
            assert grid.view.zoom is not None
            low, high = grid.view.zoom
            assert low <= grid.view.cursor <= high
            assert high - low == pytest.approx(100)
            await pilot.press("Z")
            assert grid.view.zoom[1] - grid.view.zoom[0] == pytest.approx(200)
            assert "zoomed" in words(app)[0]
            await pilot.press("escape")
            assert (grid.view.zoom, grid.view.cursor) == (None, None)
            assert app.screen is screen, "the first escape lets go, the second leaves"
            grid.panels[2].focus()
            await pilot.press("enter")
            await until(pilot, lambda: [panel.name for panel in grid.panels if panel.display] == ["margin"])
            await pilot.press("enter")
            await until(pilot, lambda: all(panel.display for panel in grid.panels))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is not screen)

    play(story())


def test_the_cursor_tells_values(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=100)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(100, 30)) as pilot:
            screen = await opened(pilot, app, run)
            await until(pilot, lambda: braille(app) > 50)
            grid = screen.query_one(CurveGrid)
            await pilot.press("right", "right", *["shift+right"] * 2)
            place = grid.view.cursor
            assert place is not None
            nearest = min(run.state().evals, key=lambda e: abs(e.step - place))
            heading = str(grid.panels[2].query_one(".title", Static).render())
            assert f"valid {nearest.metrics['margin']:.3f}" in heading

    play(story())


def test_the_mouse_opens_a_range_and_the_wheel_zooms(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=400)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(120, 35)) as pilot:
            screen = await opened(pilot, app, run)
            await until(pilot, lambda: braille(app) > 50)
            grid = screen.query_one(CurveGrid)
            plot = grid.panels[0].query_one("#plot")
            await pilot.mouse_down(plot, offset=(10, 4))
            await pilot.hover(plot, offset=(20, 4))
            await pilot.mouse_up(plot, offset=(30, 4))
            await until(pilot, lambda: grid.view.zoom)
            low, high = grid.view.zoom or (0, 0)
            assert 50 < low < high < 300
            await pilot.mouse_down(plot, offset=(20, 4))
            await pilot.mouse_up(plot, offset=(20, 4))
            await until(pilot, lambda: grid.view.cursor is not None)
            grid.post_message(Curve.Scrolled((low + high) / 2, 0.5))
            await until(pilot, lambda: grid.view.zoom[1] - grid.view.zoom[0] < high - low)  # type: ignore[index]

    play(story())


def test_tabs(root: Path, settings: TuiSettings) -> None:
    run = written(root, "oom", steps=80)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot, app, run)
            await pilot.press("2")
            await until(pilot, lambda: "before training (step 0)" in seen(app))
            assert "cat name good is name" in seen(app)
            assert "How about Miso?" in seen(app)
            await pilot.press("3")
            await until(pilot, lambda: "loading tiny-chat" in seen(app))
            await pilot.press("4")
            await until(pilot, lambda: "method.name" in seen(app))
            assert "planned: 2.94 GB of 16.00 GB (fits)" in seen(app)
            await pilot.press("5")
            await until(pilot, lambda: "few-held-out" in seen(app))
            assert "Try a smaller train.batch_size." in seen(app)
            await pilot.press("L", "z", "space")
            assert not screen.view.log_scale, "keys of the curves rest while others are looked at"
            await pilot.press("1")
            assert screen.query_one(TabbedContent).active == "curves"

    play(story())


def saved_besides(run: RunDirectory) -> bool:
    """Whether there are more checkpoints than evaluations, each of which makes one, also at the same step."""
    state = run.state()
    return len(state.checkpoints) > len(state.evals)


@pytest.mark.usefixtures("every_place")
def test_a_running_run_is_followed_saved_and_stopped(root: Path, settings: TuiSettings) -> None:
    run = new_run(root)

    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("slow"))
        async with app.run_test(size=(80, 24)) as pilot:
            app.engines.start(run)
            screen = await opened(pilot, app, run)
            await until(pilot, lambda: screen.latest.state.step > 5)  # type: ignore[union-attr]
            assert footer_fits(app)
            assert "left" in words(app)[1]
            await pilot.press("space")
            held = screen.frozen
            assert held is not None
            before = braille(app)
            await until(pilot, lambda: screen.latest.state.step > held.state.step + 10)  # type: ignore[union-attr]
            assert braille(app) == before, "the curves are held"
            assert "held" in words(app)[0]
            await pilot.press("space")
            assert screen.frozen is None
            await pilot.press("c")
            await until(pilot, lambda: saved_besides(run), "a checkpoint besides those of the evaluations")
            await pilot.press("s")
            await until(pilot, lambda: screen.latest.condition == "stopped")  # type: ignore[union-attr]
            await pilot.press("s", "c")
            assert not run.control.requested("stop"), "an engine that is gone is asked nothing"
            assert footer_fits(app)
            step = screen.latest.state.step  # type: ignore[union-attr]
            await pilot.press("r")
            await until(pilot, lambda: screen.latest.state.step > step, "it went on")  # type: ignore[union-attr]

    play(story())


def test_looks_that_come_too_fast_are_drawn_once(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written(root, steps=40)
    made: list[str] = []

    def count(name: str) -> None:
        real = getattr(texts, name)
        monkeypatch.setattr(texts, name, lambda *given: (made.append(name), real(*given))[1])

    for name in ("status", "alerts", "samples"):
        count(name)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot, app, run)
            await pilot.press("5")
            await until(pilot, lambda: "few-held-out" in seen(app))
            await pilot.press("2")
            await until(pilot, lambda: "How about Miso?" in seen(app))
            await pilot.pause()
            made.clear()
            assert screen.latest is not None
            look = replace(screen.latest, log="")
            for number in range(50):
                screen.take(replace(look, log=f"line {number}\n"))
            await until(pilot, lambda: made)
            assert made == ["status"], "one look is drawn, and of its samples nothing is new"
            assert [line for line in screen.query_one(Log).lines if line][-50:] == [
                f"line {number}" for number in range(50)
            ]
            await pilot.press("5")
            await pilot.pause()
            assert "alerts" not in made, "nothing is new there either"
            app.theme = "align-light"
            await until(pilot, lambda: "alerts" in made, "other colours")

    play(story())


def test_how_many_findings_there_are_besides() -> None:
    odd = tuple(Finding("warning", f"odd {n}", "so it is") for n in range(2))
    died = Death("the engine ended", "", of_device=False)
    for findings, death, more in ((odd[:1], None, ""), (odd, None, "(+1)"), (odd, died, "(+2)")):
        text = texts.health(Look(findings=findings, death=death), {}, {}).plain
        assert text.partition("(")[1:] == more.partition("(")[1:]


def test_of_many_alerts_the_newest_are_shown() -> None:
    look = Look(RunState(alerts=History[Alert]().extend([alert(n) for n in range(300)])))
    console = Console(width=60, color_system=None)
    with console.capture() as capture:
        console.print(texts.alerts(look, {}, {}))
    lines = capture.get().splitlines()
    assert lines[0].split() == ["!", "odd-299", "step", "299"]
    assert [line.split()[1] for line in lines if "odd-" in line][-1] == "odd-200"
    assert lines[-1].strip() == "and 200 more before"


def alert(number: int) -> Alert:
    return Alert(code=f"odd-{number}", message="so it is", step=number)


def test_memory_in_use_that_is_unknown_is_not_shown() -> None:
    look = Look(RunState(memory=Memory(step=1, active=0, peak=3_400_000_000, limit=16_000_000_000)))
    assert texts.needs(look, {}).plain.strip() == "used: at most 3.40 GB of 16.00 GB"


@pytest.mark.parametrize("method", ["orpo", "grpo"])
def test_memory_and_speed_are_seen_in_80_columns(root: Path, settings: TuiSettings, method: str) -> None:
    run = written(root, method=method, steps=1_200)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot, app, run)
            assert screen.latest is not None
            going = replace(screen.latest, condition="running", pace=Pace(12_345.0, 7_200.0, 36_000.0))
            screen.take(going)
            await until(pilot, lambda: "running" in words(app)[1])
            for figure in ("step 1,200/1,200", "10:00:00 left", "12,345 tok/s", "3.40 GB"):
                assert figure in words(app)[1]
            await pilot.press("4")
            await until(pilot, lambda: USED in seen(app))
            assert "speed: 12,345 tok/s trained" in seen(app)
            assert ("1,875 tok/s sampled" in seen(app)) == (method == "grpo")

    play(story())


def test_a_resume_takes_back_what_it_repeats(root: Path, settings: TuiSettings) -> None:
    run = written(root, "oom", steps=40)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot, app, run)
            assert screen.latest is not None
            assert screen.latest.state.step == 30
            Fake(run, "ok", 40).play()
            await until(pilot, lambda: screen.latest.condition == "finished")  # type: ignore[union-attr]
            series = screen.latest.curves["train", "loss"]
            assert series.step.tolist() == list(range(1, 41))

    play(story())


def test_text_of_a_model_is_shown_as_it_is(root: Path, settings: TuiSettings) -> None:
    """Neither markup nor control characters of a model reach the terminal."""
    run = new_run(root)
    Fake(run, "ok", 20).play()
    log = run.events.read_text(encoding="utf-8").replace("How about Miso?", r"[bold red]no[/] \u001b[31mred")
    run.events.write_text(log, encoding="utf-8")
    run.log.write_text("[/not markup] \x1b[2J gone\n", encoding="utf-8")

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(100, 30)) as pilot:
            screen = await opened(pilot, app, run)
            await pilot.press("2")
            await until(pilot, lambda: "[bold red]no[/] ␛[31mred" in seen(app))
            await pilot.press("3")
            await until(pilot, lambda: "[/not markup] ␛[2J gone" in seen(app))
            assert screen.query_one(Log).line_count >= 1

    play(story())


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (20, 8), (300, 90)])
def test_any_size(root: Path, settings: TuiSettings, size: tuple[int, int]) -> None:
    run = written(root, steps=40)

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(120, 35)) as pilot:
            screen = await opened(pilot, app, run)
            await until(pilot, lambda: braille(app) > 50)
            await pilot.resize_terminal(*size)
            await pilot.pause()
            await pilot.press("L", "t", "z", "left")
            await pilot.resize_terminal(120, 35)
            await until(pilot, lambda: braille(app) > 50)
            assert app.screen is screen

    play(story())


def test_methods_have_their_plots() -> None:
    names = {method: [plot.name for plot in plots_of(method)] for method in ("orpo", "grpo", "sft")}
    assert names["orpo"][:4] == ["loss", "rewards", "margin", "accuracy"]
    assert names["grpo"][:4] == ["reward", "length", "kl", "entropy"]
    assert names["sft"][0] == "loss"


@pytest.mark.parametrize("theme", ["align-dark", "align-light"])
@pytest.mark.parametrize("method", ["orpo", "grpo"])
@pytest.mark.usefixtures("every_place")
def test_pictures_of_monitor(root: Path, theme: str, method: str) -> None:
    run = written(root, method=method, steps=240)

    async def story() -> None:
        app = AlignApp(root, settings=TuiSettings(theme=theme))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(pilot, app, run)
            for width, height in SIZES:
                await pilot.resize_terminal(width, height)
                plots = 6 if width == 160 else 4
                await until(
                    pilot, lambda plots=plots: len(screen.query(CurvePanel)) == plots and braille(app) > 80
                )
                await until(pilot, lambda: "Help" in words(app)[-1], "the keys are drawn")
                await check_picture(app, f"monitor-{method}-{width}x{height}-{theme}")
                assert footer_fits(app)
            await pilot.resize_terminal(80, 24)
            for key, name in (("2", "samples"), ("4", "config"), ("5", "alerts")):
                await pilot.press(key)
                await pilot.pause(0.05)
                await until(
                    pilot, lambda name=name: len(str(screen.query_one(f"#{name}-text").region.height)) > 0
                )
                await until(pilot, lambda: "Help" in words(app)[-1], "the keys are drawn")
                await check_picture(app, f"monitor-{method}-{name}-{theme}")

    play(story())
