"""Export: targets and their options, jobs in other processes, cancelling, and what a run has already."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input, TabbedContent

from mlx_align import embedded
from mlx_align.engine.exporting import TARGETS, manifest
from mlx_align.engine.exporting.options import CHOICES as KNOWN
from mlx_align.engine.exporting.readers import NEEDS
from mlx_align.engine.exporting.targets import FORMATS
from mlx_align.runs import RunDirectory
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live import exporting, targets
from mlx_align_tui.live.targets import KINDS, Weights, options_of, size_of
from mlx_align_tui.screens.export import ExportScreen
from mlx_align_tui.screens.export.options import CHOICES, EXPLANATIONS, GENERAL, arguments_of, choices_of
from mlx_align_tui.screens.home import HomeScreen
from mlx_align_tui.screens.quit import ConfirmScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.export_card import ExportCard
from mlx_align_tui.widgets.exports_table import ExportsTable
from mlx_align_tui.widgets.targets import TargetsTable
from tests.trained import trained_run
from tests.tui.chatting import save
from tests.tui.conftest import DEADLINE, is_gone, play, until
from tests.tui.fake_engine import written
from tests.tui.snapshots import SIZES, check_picture, seen, words

PROGRAM = Path(__file__).with_name("fake_export.py")
WEIGHTS = Weights(parameters=596_000_000, stored=1_192_000_000, quantised=False, adapter=9_200_000)
MACHINE = frozenset({"mlx", "torch", "peft", "llama", "hub"})


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the program a scripted one, on a machine that is always the same."""
    monkeypatch.setattr("mlx_align_tui.screens.export.screen.here", lambda: MACHINE)
    monkeypatch.setattr("mlx_align_tui.screens.export.screen.weigh", lambda run: WEIGHTS)
    return lambda name: monkeypatch.setattr(exporting, "PROGRAM", [str(PROGRAM), name])


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


# What is known without loading a backend


def test_the_light_table_says_what_the_engine_knows() -> None:
    assert list(KINDS) == list(TARGETS)
    assert {name: kind.formats for name, kind in KINDS.items() if kind.formats} == FORMATS
    for name, kind in KINDS.items():
        assert set(kind.options) | ({"format"} if kind.formats else set()) == TARGETS[name].options
        for form in kind.formats or ("",):
            values = {"format": form}
            inner = TARGETS[form].options if form else frozenset()
            assert set(options_of(name, values)) == TARGETS[name].options | inner
    assert exporting.MANIFEST == manifest.NAME
    assert {name: tuple(NEEDS[name][0]) for name in NEEDS} == targets.MODULES
    for option in ("dtype", "quantization"):
        assert set(CHOICES[option]) - {targets.USUAL} == set(KNOWN[option])


def test_every_option_is_explained_and_its_usual_value_is_not_said() -> None:
    for name, kind in KINDS.items():
        for form in kind.formats or ("",):
            values = {"format": form} if form else {}
            usual = {option: choices[0] for option in (*options_of(name, values), *GENERAL)
                     if (choices := choices_of(name, option))}  # fmt: skip
            assert set(usual) | set(options_of(name, values)) <= set(EXPLANATIONS)
            expected = [] if not form or form == kind.formats[0] else [f"--format={form}"]
            assert arguments_of(name, {**usual, **values}) == ["--to", name, *expected]
    chosen = {"type": "q4_k_m", "base_gguf": "-x.gguf", "verify": "no", "there": "replace", "bits": "4"}
    assert arguments_of("gguf", chosen) == [
        "--to", "gguf", "--type=q4_k_m", "--base-gguf=-x.gguf", "--no-verify", "--force",
    ]  # fmt: skip
    sampled = arguments_of("ollama", {"parameters": "temperature=0.7 top_p=0.9"})
    assert sampled[2:] == ["--parameter=temperature=0.7", "--parameter=top_p=0.9"]
    assert "--public" in arguments_of("hub", {"public": "public", "repo": "me/m"})


def test_sizes() -> None:
    assert size_of("mlx", {}, WEIGHTS) == 9_200_000
    assert size_of("gguf-adapter", {"dtype": "f16"}, WEIGHTS) == 4_600_000
    assert size_of("gguf", {}, WEIGHTS) == size_of("ollama", {}, WEIGHTS) == 1_192_000_000
    assert size_of("gguf", {"type": "q8_0"}, WEIGHTS) == pytest.approx(633e6, rel=0.01)
    assert size_of("hf", {"dtype": "f32"}, WEIGHTS) == 4 * 596_000_000
    assert size_of("mlx-fused", {}, WEIGHTS) == WEIGHTS.stored
    assert size_of("mlx-fused", {"bits": "4"}, WEIGHTS) == pytest.approx(335e6, rel=0.01)
    assert size_of("hub", {}, WEIGHTS) == 9_200_000
    quantised = Weights(596_000_000, 335_000_000, True, 9_200_000)
    assert size_of("mlx-fused", {}, quantised) == 335_000_000
    assert (
        size_of("mlx-fused", {"quantization": "none"}, quantised)
        == size_of("hf", {}, quantised)
        == 1_192_000_000
    )


def test_a_real_model_is_weighed_and_this_machine_looked_at(tmp_path: Path) -> None:
    run = written(tmp_path, steps=20, number=1)
    model = embedded.model_folder()
    (run.path / "env.json").write_text(json.dumps({"model_folder": str(model)}))
    run.adapter.mkdir()
    (run.adapter / "adapters.safetensors").write_bytes(b"0" * 1000)
    found = targets.weigh(run)
    assert found is not None
    assert found.adapter == 1000
    assert found.stored == sum(file.stat().st_size for file in model.glob("*.safetensors"))
    assert found.stored / 5 < found.parameters < found.stored
    assert {"mlx", "torch", "peft"} <= targets.here() <= set(targets.LOADERS)
    assert targets.weigh(written(tmp_path, steps=20)) is None


# The screen


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["align-dark", "align-light"])
def test_pictures(
    root: Path, settings: TuiSettings, script: Callable[[str], None], size: tuple[int, int], theme: str
) -> None:
    script("ok")
    settings.theme = theme
    run = saved(root)
    end = f"{size[0]}x{size[1]}-{theme}"

    async def story() -> None:
        async with opened(run, settings, size) as (pilot, screen):
            screen.query_one(TargetsTable).move_cursor(row=list(KINDS).index("ollama"))
            await pilot.press("space", "up", "enter")
            await pilot.pause()
            await check_picture(screen.app, f"export-{end}")
            await pilot.press("f5")
            await until(pilot, lambda: states(screen) == ["done"])
            await until(pilot, lambda: screen.query_one(ExportsTable).row_count == 1)
            await check_picture(screen.app, f"export-progress-{end}")
            await pilot.press("3")
            await pilot.pause()
            await check_picture(screen.app, f"export-made-{end}")

    play(story())


def test_several_targets_one_after_the_other(
    root: Path, settings: TuiSettings, script: Callable[[str], None]
) -> None:
    script("ok")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):
            await pilot.press("space", "down", "space", "space", "up", "up", "f5")
            await until(pilot, lambda: states(screen) == ["done", "done", "done"])
            titles = ["mlx, step 20", "gguf-adapter, step 20", "gguf, step 20"]
            assert [job.title for job in screen.jobs] == titles
            assert screen.marked == []
            text = seen(screen.app)
            for word in ("verified by llama.cpp", "3.1e-07", "0.013", "99.8%", "next: use gguf"):
                assert word in text
            await pilot.press("y")
            assert screen.app.clipboard == "use gguf"
            screen.query(ExportCard).first().focus()
            await pilot.press("y")
            assert screen.app.clipboard == "use mlx"
            await pilot.press("3")
            await until(pilot, lambda: screen.query_one(ExportsTable).row_count == 3)
            await pilot.press("v")
            await until(pilot, lambda: states(screen)[3:] == ["done"])
            assert screen.jobs[3].title == "verify gguf"
            assert screen.query_one("#tabs", TabbedContent).active == "progress"

    play(story())


def test_options_reach_the_program(root: Path, settings: TuiSettings, script: Callable[[str], None]) -> None:
    script("ok")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            table = screen.query_one(TargetsTable)
            table.move_cursor(row=list(KINDS).index("lmstudio"))
            await until(
                pilot, lambda: "type" in [str(label.render()) for label in screen.query("#options .name")]
            )
            await pilot.press("enter")
            assert isinstance(screen.focused, Choice)
            await pilot.press("right")
            await until(
                pilot, lambda: "bits" in [str(label.render()) for label in screen.query("#options .name")]
            )
            await pilot.press("down", *"me/m")
            assert isinstance(screen.focused, Input)
            await until(pilot, lambda: screen.values["lmstudio"] == {"format": "mlx-fused", "repo": "me/m"})
            await pilot.press("escape")
            assert table.has_focus
            await pilot.press("f5")
            await until(pilot, lambda: states(screen) == ["done"])
            facts = json.loads((run.path / "exports" / "lmstudio" / "mlx-align.json").read_text())
            assert facts["arguments"] == [
                "--to",
                "lmstudio",
                "--format=mlx-fused",
                "--repo=me/m",
                "--checkpoint=step-000020",
                "--json",
            ]

    play(story())


@pytest.mark.parametrize("finished", [False, True])
def test_the_step_that_is_exported_is_shown_and_can_be_chosen(
    root: Path, settings: TuiSettings, script: Callable[[str], None], finished: bool
) -> None:
    script("ok")
    run = written(root, steps=60)
    save(run, 40, 60, best=40)
    if finished:
        run.adapter.mkdir()

    def given(target: str) -> list[str]:
        facts = json.loads((run.path / "exports" / target / "mlx-align.json").read_text())
        return [word for word in facts["arguments"] if "checkpoint" in word]

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):
            await until(pilot, lambda: "step 40 ★ best" in seen(screen.app))
            assert "step 40" in words(screen.app)[0]
            await pilot.press("f5")
            await until(pilot, lambda: states(screen) == ["done"])
            assert given("mlx") == ([] if finished else ["--checkpoint=step-000040"])
            await pilot.press("1", "enter", "right", "escape", "down")
            await until(pilot, lambda: "step 60 newest" in seen(screen.app), "it holds for all targets")
            assert "step 60" in words(screen.app)[0]
            assert screen.keeps_something
            await pilot.press("f5")
            await until(pilot, lambda: states(screen) == ["done", "done"])
            assert [job.title for job in screen.jobs] == ["mlx, step 40", "peft, step 60"]
            assert given("peft") == ["--checkpoint=step-000060"]

    play(story())


@pytest.mark.usefixtures("script")
def test_a_run_that_has_saved_nothing(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=20)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await until(pilot, lambda: screen.app._notifications)
            assert "has saved no adapter yet" in next(iter(screen.app._notifications)).message

    play(story())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bad", "the adapter is not in it"),
        ("early", "the base cannot be found"),
        ("blind", "not verified: llama.cpp is not installed"),
        ("compare", "again, 4 bits"),
    ],
)
def test_what_came_of_it_is_told(
    root: Path, settings: TuiSettings, script: Callable[[str], None], name: str, said: str
) -> None:
    script(name)
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and not screen.busy)
            assert states(screen) == ["failed" if name in ("bad", "early") else "done"]
            await pilot.pause()
            assert any(said in line for line in words(screen.app))
            await pilot.press("1", "f5")
            await until(pilot, lambda: len(screen.jobs) == 2 and not screen.busy)

    play(story())


@pytest.mark.parametrize("name", ["hang", "stubborn"])
def test_cancelling_leaves_nothing(
    root: Path,
    settings: TuiSettings,
    script: Callable[[str], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "GRACE", 0.05)
    script(name)
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("space", "space", "f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            await pilot.press("c")
            await until(pilot, lambda: not screen.busy)
            assert states(screen) == ["cancelled", "cancelled"]
            assert not list((run.path / "exports").iterdir())
            script("ok")
            await pilot.press("1", "f5")
            await until(pilot, lambda: states(screen)[2:] == ["done"])

    play(story())


def test_what_is_begun_after_a_cancel_is_not_cancelled(
    root: Path, settings: TuiSettings, script: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "GRACE", DEADLINE)
    script("stubborn")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            await pilot.press("c")
            script("ok")
            await pilot.press("1", "f5")
            assert states(screen) == ["running", "waiting"], "the first is still asked to end"
            (writing,) = (run.path / "exports").iterdir()
            os.kill(int(writing.name.split("-")[1]), signal.SIGKILL)
            await until(pilot, lambda: not screen.busy)
            assert states(screen) == ["cancelled", "done"]

    play(story())


def test_an_export_that_does_not_end_does_not_outlive_the_app(tmp_path: Path) -> None:
    run = written(tmp_path, steps=20)
    leaving = """
import os, sys
from pathlib import Path
from mlx_align_tui.live import exporting
exporting.PROGRAM, exporting.GRACE = [sys.argv[1], "stubborn"], 0.05
run = sys.argv[2]
export = exporting.Exporting(["export", run, "--to", "mlx"], Path(run, "exports"))
def told(message):
    if message["stage"] == "verifying":
        print(export._process.pid, flush=True)
        export.cancel()
        os._exit(7)
export.run(told)
"""
    command = [sys.executable, "-c", leaving, str(PROGRAM), str(run.path)]
    left = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert left.returncode == 7

    async def is_clean() -> None:
        async with asyncio.timeout(DEADLINE):
            while list((run.path / "exports").iterdir()) or not is_gone(int(left.stdout)):
                await asyncio.sleep(0.01)

    play(is_clean())


def test_an_export_that_is_killed_takes_away_only_its_own(
    root: Path, settings: TuiSettings, script: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "GRACE", 0.05)
    script("stubborn")
    run = saved(root)
    exports = run.path / "exports"

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            (own,) = exports.iterdir()
            put_aside = own.with_name(f"{own.name}-old")  # what it was about to replace
            others = [exports / ".mlx-12-abc", exports / ".gguf-x1", put_aside]
            for other in others:
                other.mkdir()
            await pilot.press("c")
            await until(pilot, lambda: not screen.busy)
            assert sorted(exports.iterdir()) == sorted(others)

    play(story())


def test_quitting_asks_about_an_export(
    root: Path, settings: TuiSettings, script: Callable[[str], None]
) -> None:
    script("hang")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            await pilot.press("ctrl+q")
            await until(pilot, lambda: any("export is under way" in line for line in words(screen.app)))
            await pilot.press("n")
            await until(pilot, lambda: screen.app.screen is screen)
            assert screen.busy
            await pilot.press("ctrl+q")
            await until(pilot, lambda: isinstance(screen.app.screen, ConfirmScreen))
            await pilot.press("y")
            await until(pilot, lambda: screen.app._exit)
        async with asyncio.timeout(DEADLINE):
            while list((run.path / "exports").iterdir()):
                await asyncio.sleep(0.01)

    play(story())


def test_leaving_asks_and_cancels(root: Path, settings: TuiSettings, script: Callable[[str], None]) -> None:
    script("hang")
    run = saved(root)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and len(screen.jobs[0].stages) == 2)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(screen.app.screen, ConfirmScreen))
            await pilot.press("n")
            await until(pilot, lambda: screen.app.screen is screen)
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(screen.app.screen, ConfirmScreen))
            await pilot.press("y")
            await until(pilot, lambda: isinstance(screen.app.screen, HomeScreen))
            await until(pilot, lambda: not list((run.path / "exports").iterdir()))

    play(story())


@pytest.mark.slow
def test_the_real_program_exports_and_verifies(
    tmp_path: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.tui.conftest.DEADLINE", 300.0)
    run = trained_run(tmp_path)

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):
            await pilot.press("f5")
            await until(pilot, lambda: screen.jobs and not screen.busy)
            assert screen.jobs[0].error is None
            assert screen.jobs[0].result["verification"]["figures"]["share"] == pytest.approx(1, abs=0.05)
            await until(pilot, lambda: screen.query_one(ExportsTable).row_count == 1)
            assert screen.jobs[0].next_command.startswith("mlx_lm.generate")

    play(story())
