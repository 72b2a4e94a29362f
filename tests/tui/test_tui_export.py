"""Export: targets, their options, and the step that is exported."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from mlx_align import embedded
from mlx_align.engine.exporting import TARGETS, manifest
from mlx_align.engine.exporting.options import CHOICES as KNOWN
from mlx_align.engine.exporting.readers import NEEDS
from mlx_align.engine.exporting.targets import FORMATS
from mlx_align_cli.saved import MANIFEST, USUAL_ADAPTER
from mlx_align_tui.live import targets
from mlx_align_tui.live.adapters import Adapter, adapters_of
from mlx_align_tui.live.targets import KINDS, Weights, options_of, size_of
from mlx_align_tui.screens.chat import texts as of_chat
from mlx_align_tui.screens.export import texts
from mlx_align_tui.screens.export.options import (
    CHOICES,
    EXPLANATIONS,
    GENERAL,
    STEP,
    arguments_of,
    choices_of,
)
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.exports_table import ExportsTable
from mlx_align_tui.widgets.targets import TargetsTable
from tests.tui.chatting import save
from tests.tui.conftest import WEIGHTS, play, until
from tests.tui.exporting import given, opened, saved, states
from tests.tui.fake_engine import written
from tests.tui.snapshots import SIZES, check_picture, seen, words

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
    assert MANIFEST == manifest.NAME
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
            told = ["--to", "lmstudio", "--format=mlx-fused", "--repo=me/m", "--json"]
            assert given(run, "lmstudio") == told

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

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):
            await until(pilot, lambda: "step 40 ★ best" in seen(screen.app))
            assert "step 40" in words(screen.app)[0]
            await pilot.press("f5")
            await until(pilot, lambda: states(screen) == ["done"])
            assert given(run, "mlx") == ["--to", "mlx", "--json"], "whichever is the usual one by then"
            await pilot.press("1", "enter", "right", "escape", "down")
            await until(pilot, lambda: "step 60 newest" in seen(screen.app), "it holds for all targets")
            assert "step 60" in words(screen.app)[0]
            assert screen.keeps_something
            await pilot.press("f5")
            await until(pilot, lambda: states(screen) == ["done", "done"])
            assert [job.title for job in screen.jobs] == ["mlx", "peft, step 60"]
            assert given(run, "peft") == ["--to", "peft", "--checkpoint=step-000060", "--json"]
            await pilot.press("3")
            await until(pilot, lambda: screen.query_one(ExportsTable).row_count == 2)
            assert [line.split()[2] for line in words(screen.app)[3:5]] == ["40", "60"]
            await pilot.press("1", "enter", "left")
            await until(pilot, lambda: screen.wanted is None, "back to the usual one")

    play(story())


def test_a_run_that_trains_on_has_other_steps(
    root: Path, settings: TuiSettings, script: Callable[[str], None]
) -> None:
    script("bad")
    run = written(root, steps=60)
    checkpoints = run.path / "checkpoints"

    async def story() -> None:
        async with opened(run, settings, (120, 35)) as (pilot, screen):

            async def look_elsewhere(wanted: str) -> None:
                await pilot.press("question_mark")
                await until(pilot, lambda: screen.app.screen is not screen)
                await pilot.press("escape")
                await until(pilot, lambda: wanted in seen(screen.app))

            save(run, 40, best=40)
            await look_elsewhere("‹ step 40 ★ best ›")
            save(run, 60, 80, best=60)
            shutil.rmtree(checkpoints / "step-000040")
            await look_elsewhere("‹ step 60 ★ best ›")
            await pilot.press("enter", "right", "escape")
            await until(pilot, lambda: screen.wanted == "step-000080")
            save(run, 100, best=60)
            await look_elsewhere("‹ step 80 ›")
            assert [each.step for each in screen.adapters] == [60, 100, 80]
            shutil.rmtree(checkpoints / "step-000080")
            await pilot.press("f5")
            gone = "step-000080 is not kept any more"
            await until(pilot, lambda: any(gone in note.message for note in screen.app._notifications))
            assert states(screen) == ["failed"]
            assert screen.wanted is None
            await pilot.press("1")
            await until(pilot, lambda: "‹ step 60 ★ best ›" in seen(screen.app))

    play(story())


@pytest.mark.usefixtures("script")
def test_the_cursor_stays_among_the_options_when_the_steps_arrive(
    root: Path, settings: TuiSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, go_on = saved(root), threading.Event()

    def slowly(run: Any) -> list[Adapter]:
        go_on.wait()
        return adapters_of(run)

    monkeypatch.setattr("mlx_align_tui.screens.export.screen.adapters_of", slowly)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            try:
                screen.query_one(TargetsTable).move_cursor(row=list(KINDS).index("gguf"))
                await until(pilot, lambda: screen.query("#options Input"))
                await pilot.press("enter", "down", *"ab")
                assert isinstance(screen.focused, Input)
            finally:
                go_on.set()
            await until(pilot, lambda: "‹ step 20 ★ best ›" in seen(screen.app), "and it is not cut")
            await pilot.press("c")
            await until(pilot, lambda: screen.values["gguf"] == {"base_gguf": "abc"})

    play(story())


def test_which_step_is_the_usual_one_is_said_alike() -> None:
    for text in (texts.HELP, of_chat.HELP, EXPLANATIONS[STEP]):
        assert USUAL_ADAPTER in text


@pytest.mark.usefixtures("script")
def test_a_run_that_has_saved_nothing(root: Path, settings: TuiSettings) -> None:
    run = written(root, steps=20)

    async def story() -> None:
        async with opened(run, settings) as (pilot, screen):
            await until(pilot, lambda: screen.app._notifications)
            assert "has saved no adapter yet" in next(iter(screen.app._notifications)).message

    play(story())
