"""New run: what is chosen with keys is what is checked, planned, written down and launched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DirectoryTree, Input, OptionList

from mlx_align.combinations import concerns
from mlx_align.config import RunConfig
from mlx_align.errors import AlignError, UsageError
from mlx_align.runs import list_runs
from mlx_align_cli.schema import all_keys, method_keys
from mlx_align_tui.app import AlignApp
from mlx_align_tui.live import programs
from mlx_align_tui.live.programs import Fit, Planning
from mlx_align_tui.screens.monitor import MonitorScreen
from mlx_align_tui.screens.new_run import NewRunScreen, sources
from mlx_align_tui.screens.new_run.draft import CHOSEN, Draft
from mlx_align_tui.screens.new_run.fields import advanced, simple
from mlx_align_tui.screens.new_run.form import Field, Form
from mlx_align_tui.screens.new_run.method import MethodStep
from mlx_align_tui.screens.new_run.saving import AskNameScreen
from mlx_align_tui.settings import TuiSettings
from mlx_align_tui.widgets.choice import Choice
from mlx_align_tui.widgets.path_picker import PathPicker
from tests.tui.conftest import play, until
from tests.tui.fake_engine import launcher
from tests.tui.snapshots import SIZES, check_picture, seen, words

FITS = Fit("fits", 48_000_000, 16_000_000_000, {"weights": 40_000_000, "work": 8_000_000}, "backward")
WONT = Fit(
    "will not fit",
    20_000_000_000,
    16_000_000_000,
    {"weights": 20_000_000_000},
    "loss",
    "With --set train.batch_size=2 it would need 12 GB.",
    {"train.batch_size": 2, "train.accumulate": 2},
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What was planned; every plan fits, but rows of four do not where the rank is 99."""
    questions: list[list[str]] = []

    def ask(self: Planning, arguments: list[str]) -> Fit:
        questions.append(list(arguments))
        return WONT if "adapter.rank=99" in arguments and "train.batch_size=2" not in arguments else FITS

    monkeypatch.setattr(Planning, "ask", ask)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.chdir(tmp_path)
    return questions


def screen_of(app: AlignApp) -> NewRunScreen:
    assert isinstance(app.screen, NewRunScreen)
    return app.screen


async def opened(app: AlignApp, pilot: Pilot[None], start: RunConfig | None = None) -> NewRunScreen:
    await pilot.pause()
    app.go("new_run", start)
    await until(pilot, lambda: isinstance(app.screen, NewRunScreen) and app.screen.query(Field))
    await until(pilot, lambda: isinstance(screen_of(app).focused, OptionList))
    return screen_of(app)


async def reach(pilot: Pilot[None], screen: NewRunScreen, key: str, by: str = "down") -> Field:
    """Go to the field of a key with the arrow keys."""
    for _ in range(100):
        focused = screen.focused
        field = focused.parent if focused is not None else None
        if isinstance(field, Field) and field.spec.key == key:
            return field
        await pilot.press(by)
        await until(pilot, lambda before=focused: screen.focused is not before)  # type: ignore[misc]
    raise AssertionError(f"there is no way to {key}")


def test_from_the_model_to_a_run_that_trains_with_keys_only(
    root: Path, settings: TuiSettings, asked: list[list[str]]
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("ok", steps=20))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("enter")
            await until(pilot, lambda: screen.step == "data")
            await pilot.press("enter")
            await until(pilot, lambda: screen.step == "method" and isinstance(screen.focused, Choice))
            first = screen.focused
            await pilot.press("enter")
            await until(pilot, lambda: screen.focused is not first)
            assert screen.draft.method == "orpo", "enter goes on, here too"
            field = await reach(pilot, screen, "optim.lr")
            await pilot.press("0")
            await until(pilot, lambda: field.has_class("-wrong"))
            assert "greater than 0" in seen(app), "the error stands at its field"
            assert screen.resolved is None
            await pilot.press("backspace", *"2e-4")
            await until(pilot, lambda: screen.resolved is not None)
            assert not field.has_class("-wrong")
            await reach(pilot, screen, "train.steps")
            await pilot.press("9")
            await pilot.press("ctrl+n")
            await until(pilot, lambda: screen.fit is FITS)
            assert "fits" in words(app)[0]
            await pilot.press("ctrl+n")
            await until(pilot, lambda: screen.step == "launch")
            assert "optim.lr=2e-4" in " ".join(words(app))
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, MonitorScreen))
        (run,) = list_runs(root)
        config = run.config()
        assert (config.optim.lr, config.train.steps, config.method.name) == (2e-4, 9, "orpo")
        assert asked[-1][:3] == ["plan", "tiny-chat", "sample"]
        assert "optim.lr=2e-4" in asked[-1]
        assert settings.recent_models == ("tiny-chat",)

    play(story())


def test_what_cannot_be_launched_is_told_and_can_be_mended(
    root: Path, settings: TuiSettings, asked: list[list[str]]
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings, launcher=launcher("ok"))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("2")
            await until(pilot, lambda: screen.step == "data")
            screen.query_one("#data Input", Input).focus()
            await pilot.press("end", *"-not", "enter")
            await until(pilot, lambda: screen.draft.data == "sample-not")
            screen.action_show("launch")
            await until(pilot, lambda: screen.step == "launch")
            await pilot.press("f5")
            await until(pilot, lambda: any("no such file" in note.message for note in app._notifications))
            assert screen_of(app) is screen
            assert not list_runs(root)
            await until(pilot, lambda: not screen.query_one("#go").disabled)

    play(story())


def test_every_key_of_the_schema_is_in_the_advanced_form(
    root: Path, settings: TuiSettings, asked: list[list[str]]
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            few = len(screen.query("#keys Field"))
            await pilot.press("3", "f2")
            wanted = {key.name for key in [*all_keys(), *method_keys("orpo")] if concerns(key.name, "orpo")}
            await until(pilot, lambda: len(screen.query("#keys Field")) > few)
            shown = {field.spec.key for field in screen.query("#keys").first().query(Field)}
            assert shown == wanted - set(CHOSEN)
            assert settings.advanced
            assert all(field.spec.description for field in screen.query(Field))

    play(story())


def test_rewards_and_their_weights_are_chosen_for_grpo(
    root: Path, settings: TuiSettings, asked: list[list[str]]
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("3")
            await until(pilot, lambda: isinstance(screen.focused, Choice))
            for method in ("dpo", "simpo", "grpo"):
                await pilot.press("right")
                await until(pilot, lambda method=method: screen.draft.method == method)  # type: ignore[misc]
            assert screen.resolved is not None
            assert [reward.name for reward in screen.resolved.config.rewards] == ["numeric"], "the catalog's"
            await reach(pilot, screen, "rewards.exact")
            await pilot.press("2")
            await reach(pilot, screen, "rewards.refusal")
            await pilot.press(*"-.5")
            await until(pilot, lambda: screen.resolved and len(screen.resolved.config.rewards) == 2)
            rewards = {one.name: one.weight for one in screen.resolved.config.rewards}
            assert rewards == {"exact": 2.0, "refusal": -0.5}
            await reach(pilot, screen, "rewards.refusal")
            await pilot.press("x")
            await until(pilot, lambda: screen.resolved is None)
            assert screen.query(".-wrong").results(Field).__next__().spec.key == "rewards.refusal"

    play(story())


def test_a_run_that_will_not_fit_is_changed_with_one_key(
    root: Path, settings: TuiSettings, asked: list[list[str]]
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("3")
            await until(pilot, lambda: screen.step == "method")
            await reach(pilot, screen, "adapter.rank")
            await pilot.press("9", "9")
            await pilot.press("ctrl+n")
            await until(pilot, lambda: screen.fit is WONT)
            assert "will not fit" in words(app)[0]
            await pilot.press("u")
            await until(pilot, lambda: screen.fit is FITS)
            assert screen.draft.typed["train.batch_size"] == "2"

    play(story())


def test_the_command_is_copied_and_the_file_saved_once(
    root: Path, settings: TuiSettings, asked: list[list[str]], tmp_path: Path
) -> None:
    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("5")
            await until(pilot, lambda: screen.step == "launch")
            await pilot.press("f3")
            await until(pilot, lambda: app.clipboard == screen.draft.command())
            await pilot.press("f4")
            await until(pilot, lambda: isinstance(app.screen, AskNameScreen))
            await pilot.press("enter")
            await until(pilot, lambda: (tmp_path / "orpo.toml").is_file() and app.screen is screen)
            before = (tmp_path / "orpo.toml").read_text()
            assert before == screen.draft.toml()
            await pilot.press("f4")
            await until(pilot, lambda: isinstance(app.screen, AskNameScreen))
            await pilot.press("enter")
            await until(pilot, lambda: "already" in seen(app))
            await pilot.press("end", *(["backspace"] * 20), "enter")
            await until(pilot, lambda: "type a name" in seen(app))
            await pilot.press(*"no/o.toml", "enter")
            await until(pilot, lambda: "there is no folder no" in seen(app))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is screen)
            assert (tmp_path / "orpo.toml").read_text() == before

    play(story())


def test_a_reward_with_options_is_chosen_with_keys_only(
    root: Path, settings: TuiSettings, asked: list[list[str]]
) -> None:
    """What must be set is asked for when a reward is chosen, and what is wrong stands at its field."""

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, Draft(root, method="grpo").resolved().config)
            await pilot.press("3")
            await until(pilot, lambda: isinstance(screen.focused, Choice))
            target = screen.query_one("#keys", Form).field("rewards.length.target")
            assert target is not None
            assert not target.display, "options of what is not used are not in the way"
            await reach(pilot, screen, "rewards.length")
            await pilot.press("1")
            await until(pilot, lambda: target.display and target.has_class("-wrong"))
            assert screen.resolved is None
            await pilot.press("down")
            await until(pilot, lambda: "target *" in seen(app))
            await until(pilot, lambda: "✘ must be set" in seen(app))
            await pilot.press(*"many")
            await until(pilot, lambda: "must be a whole number" in seen(app))
            await pilot.press(*(["backspace"] * 4), *"20", "down", *"5")
            await until(pilot, lambda: screen.resolved is not None)
            await pilot.press("down", "right")
            await until(pilot, lambda: screen.draft.rewards.text("length.sides") == "longer")
            assert screen.resolved is not None
            (first, second) = screen.resolved.config.rewards
            assert first.name == "numeric"
            assert (second.name, second.options) == ("length", {"target": 20, "width": 5, "sides": "longer"})
            await reach(pilot, screen, "rewards.length", "up")
            await pilot.press("backspace")
            await until(pilot, lambda: not target.display)
            assert screen.resolved is not None
            assert [reward.name for reward in screen.resolved.config.rewards] == ["numeric"]

    play(story())


def test_a_function_of_ones_own_is_found(
    root: Path, settings: TuiSettings, asked: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def polite(completion, **rest):\n    return 1.0\n")

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot, Draft(root, method="grpo").resolved().config)
            await pilot.press("3")
            await until(pilot, lambda: isinstance(screen.focused, Choice))
            field = screen.query_one("#keys", Form).field("rewards.python")
            assert field is not None
            field.take_focus()
            await pilot.press("1")
            await reach(pilot, screen, "rewards.python.function")
            await pilot.press("ctrl+o")
            await until(pilot, lambda: "mine.py" in seen(app))
            await pilot.press("down", "space")
            await until(pilot, lambda: screen.resolved is not None)
            assert screen.resolved is not None
            assert screen.resolved.config.rewards[-1].name == f"{tmp_path / 'mine.py'}:polite"

    play(story())


def test_rewards_are_in_both_forms(root: Path, settings: TuiSettings, asked: list[list[str]]) -> None:
    for fields in (simple("grpo"), advanced("grpo")):
        keys = {spec.key for spec in fields}
        assert {"rewards.length", "rewards.length.target", "rewards.python.function"} <= keys
    assert not any(spec.key.startswith("rewards") for spec in advanced("dpo"))


def test_a_file_is_found_in_the_browser(
    root: Path, settings: TuiSettings, asked: list[list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "sets" / "mine"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "sets" / "notes.txt").write_text("no data")

    async def story() -> None:
        app = AlignApp(root, settings=settings)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            await pilot.press("2")
            await until(pilot, lambda: screen.step == "data")
            await pilot.press("b")
            await until(pilot, lambda: isinstance(app.screen, PathPicker))
            field = app.screen.query_one(Input)
            field.focus()
            field.value = str(tmp_path / "sets")
            await pilot.press("enter")
            await until(pilot, lambda: "mine" in seen(app))
            assert "notes.txt" not in seen(app)
            await until(pilot, lambda: isinstance(app.focused, DirectoryTree))
            await pilot.press("down", "space")
            await until(pilot, lambda: screen.draft.data == str(folder))
            assert screen.step == "method"
            await until(pilot, lambda: screen.draft.method == "sft", "rows with messages are no pairs")
            await until(pilot, lambda: screen.query("#choices Choice").first(Choice).value == "sft")

    play(story())


def test_what_was_used_before_and_what_lies_here_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub" / "models--owner--some--name").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert [one.name for one in sources.models(["mine/model"])] == [
        "tiny-chat",
        "mine/model",
        "owner/some--name",
    ]
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").touch()
    (tmp_path / "other").mkdir()
    assert [one.name for one in sources.data(["rows.jsonl"], tmp_path)] == ["sample", "rows.jsonl", "set/"]


@pytest.mark.parametrize("theme", ["align-dark", "align-light"])
def test_new_run_pictures(asked: list[list[str]], theme: str) -> None:
    async def story() -> None:
        app = AlignApp(Path("runs"), settings=TuiSettings(theme=theme))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = await opened(app, pilot)
            for number, step in enumerate(("model", "data", "method", "plan", "launch"), 1):
                screen.action_show(step)
                await until(pilot, lambda step=step: screen.step == step and screen.fit is FITS)  # type: ignore[misc]
                await pilot.pause()
                await check_picture(app, f"new-run-{number}-80x24-{theme}")
            screen.action_show("method")
            for width, height in SIZES[1:]:
                await pilot.resize_terminal(width, height)
                await pilot.pause()
                await check_picture(app, f"new-run-3-{width}x{height}-{theme}")
            await pilot.resize_terminal(80, 24)
            await screen.query_one(MethodStep).choose("grpo")
            await reach(pilot, screen, "rewards.numeric")
            field = screen.query_one("#keys", Form).field("rewards.length")
            assert field is not None
            field.take_focus()
            await pilot.press("1")
            await reach(pilot, screen, "rewards.length.target")
            await check_picture(app, f"new-run-rewards-80x24-{theme}")

    play(story())


def test_a_real_plan_and_a_real_error() -> None:
    planning = Planning()
    fit = planning.ask(Draft(Path("runs")).plan_arguments())
    assert fit is not None
    assert fit.verdict in ("fits", "tight", "will not fit", "unknown")
    assert fit.total == sum(fit.parts.values()) > 0
    with pytest.raises(UsageError, match="no model 'nowhere'") as caught:
        planning.ask(Draft(Path("runs"), model="nowhere").plan_arguments())
    assert caught.value.hint is not None
    planning.close()
    assert planning.ask(["plan"]) is None, "once it is closed nothing is begun"


def test_words_of_a_process_that_died_are_told() -> None:
    assert str(programs.error_told(9, "")) == str(
        AlignError("the program ended with code 9: it said nothing")
    )
    assert programs.error_told(-9, "half a line").message == "the program was killed by signal 9"


@pytest.mark.parametrize(
    "code", ["print('loading [x]'); print('{}')", "print('{'); print('}'); print('loading [x]')"]
)
def test_a_line_that_is_no_json_is_told(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(programs, "PROGRAM", ["-c", code])
    with pytest.raises(AlignError, match=r"a line that is no JSON: loading \[x\]"):
        Planning().ask(["plan"])


def test_a_talking_program_that_says_a_line_that_is_no_json_is_told() -> None:
    with pytest.raises(AlignError, match="a line that is no JSON: usage"):
        list(programs.Talking("json.tool", ["--help"], offline=True).messages())


PREPARE = """
import sys
from pathlib import Path
from mlx_align.api import prepare
from mlx_align_tui.app import AlignApp
from mlx_align_tui.screens import PLACES, make
from mlx_align_tui.screens.new_run.draft import Draft
for place in ("new_run", "data"):
    make(place)
prepare(Draft(Path(sys.argv[1]), method="grpo").resolved())
print([name for name in ("mlx", "torch", "transformers", "mlx_lm") if name in sys.modules])
"""


def test_preparing_a_run_here_loads_no_framework(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(tmp_path)],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
