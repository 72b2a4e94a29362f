from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
from example_run import CRISP, FAILED, FINISHED, SLOPPY, STOPPED, TOTAL, make_run, sample, state_of, story
from rich.cells import cell_len
from rich.console import Console

from mlx_align.events import Completion, RunState, Sample, reduce
from mlx_align_cli.display import Kind, choose
from mlx_align_cli.display.answers import comparisons
from mlx_align_cli.display.facts import metric_rows, pace
from mlx_align_cli.display.json import JsonDisplay
from mlx_align_cli.display.plain import PlainDisplay
from mlx_align_cli.display.report import report, shell_lines
from mlx_align_cli.display.rich import RichDisplay
from mlx_align_cli.display.screen import screen

EVIL = "[bold]not bold[/bold] \x1b[2J\x1b]0;title\x07 [/] done"


def rendered(renderable, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)
    console.print(renderable)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("until", [0, 1, 37, TOTAL])
def test_the_screen_fits_its_width(width: int, until: int):
    lines = rendered(screen(state_of(story(until)), "a-run", width=width), width)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert "tiny-chat" in text
    assert f"{until}/{TOTAL}" in text


def test_the_screen_fits_a_low_terminal():
    assert len(rendered(screen(state_of(story(37)), "a-run", width=80, height=20), 80)) <= 20
    assert len(rendered(screen(state_of(story(37)), "a-run", width=80, height=24), 80)) <= 24


def test_the_screen_of_a_run_that_has_said_nothing():
    assert "starting" in "\n".join(rendered(screen(RunState(), "a-run", width=80), 80))


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_compares_and_says_what_to_type(root: Path, width: int):
    events = story(end=FINISHED)
    run = make_run(root, events)
    lines = rendered(report(run, state_of(events), width), width)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert "What is 47 + 8?" in text
    assert CRISP in text
    assert SLOPPY[:20] in text
    assert f"runs/{run.name}/adapter" in text
    assert "mlx-align generate" in text


def test_the_commands_survive_a_shell(root: Path):
    events = story(end=FINISHED)
    run = make_run(root, events)
    lines = rendered(report(run, state_of(events), 80), 80)
    start = next(i for i, line in enumerate(lines) if "mlx_lm.generate" in line)
    words = shlex.split("\n".join(lines[start:-1]))
    assert words[words.index("--model") + 1] == "runs/models/tiny chat"
    assert words[words.index("--prompt") + 1] == "What is 47 + 8?"


def test_shell_lines_keep_an_option_with_its_value():
    lines = shell_lines("tool --first 'a b' --second value", 20)
    assert lines == ["tool --first 'a b' \\", "    --second value"]


def test_model_output_is_shown_as_it_is_and_harmless(root: Path):
    evil = [Sample(step=s, completions=(Completion(prompt=EVIL, completion=EVIL + str(s)),)) for s in (0, 5)]
    events = [*story(5)[:3], evil[0], *story(5)[6:-4], evil[1], FINISHED]
    run = make_run(root, events)
    state = state_of(events)
    for renderable in (report(run, state, 120), screen(state_of(events[:-1]), EVIL, width=120)):
        text = "\n".join(rendered(renderable, 120))
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "[bold]not bold[/bold] ␛[2J␛]0;title␇ [/] done" in text


def test_before_and_after_need_both():
    assert comparisons(state_of(story(0)[:4])) == []
    assert [pair.after for pair in comparisons(state_of(story(9)))] == [CRISP] * 3


def test_after_a_finish_the_best_step_is_what_counts():
    best = FINISHED.model_copy(update={"best_step": 30})
    events = [*story(30), sample(TOTAL, "later"), best]
    assert comparisons(state_of(events))[0].after == CRISP
    rows = {row.key: row for row in metric_rows(state_of(events))}
    assert rows["loss"].before == 2.0
    assert rows["loss"].now == 2.0 - 30 / 40


def test_pace_says_how_long_it_will_take():
    state = state_of(story(30))
    seconds_a_step = 0.25
    now = list(state.steps)[-1].t
    assert pace(state, now).remaining == pytest.approx(30 * seconds_a_step, abs=2)
    assert pace(state).tokens_per_second == pytest.approx(196 / 0.25)


def followed(display, events, run) -> None:
    state = RunState()
    with display:
        for event in events:
            state = reduce(state, event)
            display.show(event, state)
        display.end(run, state)


def test_plain_lines(root: Path):
    events, stream = story(end=FINISHED), io.StringIO()
    followed(PlainDisplay(stream), events, make_run(root, events))
    lines = stream.getvalue().splitlines()
    assert 10 <= sum(line.startswith("step ") for line in lines) <= 12
    assert any(line.startswith("eval at step 0: loss 2.000") for line in lines)
    assert any(line.startswith("warning: 3 held-out prompts") for line in lines)
    assert any(line == f"  after step 60: {CRISP}" for line in lines)
    assert "held out accuracy: 50.0% -> 96.2% after step 60" in lines


def test_rich_display_leaves_the_report_standing(root: Path):
    events = story(end=FINISHED)
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True)
    display = RichDisplay(console)
    display.begin("a-run", "Ctrl-C stops")
    followed(display, events, make_run(root, events))
    assert "finished: 60 steps" in console.file.getvalue()


def test_json_lines_are_the_events(root: Path, capsys: pytest.CaptureFixture[str]):
    events = story(3, end=STOPPED)
    followed(JsonDisplay(), events, make_run(root, events))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == [event.type for event in events]


def test_how_a_run_ended_is_said(root: Path):
    for end, words in ((STOPPED, "runs resume"), (FAILED, "failed at step 9")):
        events = story(5, end=end)
        assert words in "\n".join(rendered(report(make_run(root, events), state_of(events), 80), 80))


def test_auto_is_plain_without_a_terminal():
    assert isinstance(choose(Kind.AUTO), PlainDisplay)
    assert isinstance(choose(Kind.RICH), RichDisplay)
