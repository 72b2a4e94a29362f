from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
from example_run import (
    CRISP,
    FAILED,
    FINISHED,
    SLOPPY,
    STOPPED,
    TOTAL,
    beginning,
    evaluation,
    make_run,
    sample,
    started,
    state_of,
    step,
    story,
)  # fmt: skip
from rich.cells import cell_len
from rich.console import Console

from mlx_align.events import Alert, Completion, Sample
from mlx_align.run_state import RunState, reduce
from mlx_align_cli.display import Kind, choose
from mlx_align_cli.display.answers import comparisons, example_prompt, summary, telling
from mlx_align_cli.display.describe import describe
from mlx_align_cli.display.facts import metric_rows, pace
from mlx_align_cli.display.json import JsonDisplay
from mlx_align_cli.display.plain import PlainDisplay
from mlx_align_cli.display.report import report, shell_lines
from mlx_align_cli.display.rich import RichDisplay
from mlx_align_cli.display.screen import alert_line, screen

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
    assert "held out accuracy: – -> 96.2% after step 60" in lines  # all margins were 0: a tie


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


def answers(number: int, *said: str) -> Sample:
    """Answers to prompts a, b, c ... whose chosen answer is "yes" and whose rejected one is "no"."""
    made = (
        Completion(prompt=chr(97 + i), completion=c, chosen="yes", rejected="no") for i, c in enumerate(said)
    )
    return Sample(step=number, completions=tuple(made))


def test_changed_answers_come_first_and_are_counted(root: Path):
    events = [started(), answers(0, "yes", "no", "yes"), answers(TOTAL, "yes", "yes", "yes"), FINISHED]
    state = state_of(events)
    pairs = comparisons(state)
    assert [pair.prompt for pair in pairs] == ["b", "a", "c"]
    assert summary(state, pairs, 2) == [
        "3 prompts asked, 2 shown, 1 answer changed",
        "nearer to the chosen than the rejected answer: 2 of 3 before, 3 of 3 after",
    ]
    assert example_prompt(state) == "b"
    text = "\n".join(rendered(report(make_run(root, events), state, 80), 80))
    assert "3 prompts asked, 1 answer changed" in text
    name = next(root.iterdir()).name
    assert f"  mlx-align generate {name} b\n" in text
    assert f"  mlx-align generate {name} b --base\n" in text


def test_the_screen_watches_a_prompt_that_was_answered_wrong():
    events = [started(), answers(0, "yes", "no"), step(1), answers(1, "yes", "so so")]
    assert telling(state_of(events)) == 1
    text = "\n".join(rendered(screen(state_of(events), "a-run", width=80), 80))
    assert "says   so so  after step 1" in text


def test_answers_and_measures_are_labelled_with_their_own_step(root: Path):
    stop = STOPPED.model_copy(update={"step": 56})
    events = [*story(50), *(step(n) for n in range(51, 57)), stop]
    run, state = make_run(root, events), state_of(events)
    text = "\n".join(rendered(report(run, state, 80), 80))
    assert "after step 50" in text
    assert "after step 56" not in text
    assert "step 50" in "\n".join(rendered(screen(state, "a-run", width=80), 80))
    assert "last, step 50" in "\n".join(rendered(describe(run, 80), 80))


def test_a_run_that_never_got_better_is_not_called_a_success(root: Path):
    end = FINISHED.model_copy(update={"best_step": 0})
    first, later = evaluation(0), evaluation(TOTAL).model_copy(update={"best": False})
    events = [started(), first, sample(0, CRISP), step(TOTAL), later, sample(TOTAL, SLOPPY), end]
    run, state = make_run(root, events), state_of(events)
    text = "\n".join(rendered(report(run, state, 80), 80))
    assert "finished, but no evaluation was better than the start" in text
    assert "smaller optim.lr" in " ".join(text.split())
    assert "✓" not in text
    assert "generate" not in text
    kept = next(line for line in rendered(describe(run, 80), 80) if line.startswith("loss"))
    assert kept.split() == ["loss", "2.000", "2.000"]


def test_a_tie_is_no_accuracy():
    rows = {row.key: row for row in metric_rows(state_of(story(10)))}
    assert rows["accuracy"].before is None
    assert rows["accuracy"].now == pytest.approx(0.5 + 10 / 130)


def test_time_is_that_of_all_attempts():
    first = state_of(story(30, end=STOPPED))
    again = [
        event.model_copy(update={"attempt": 2, "t": 9_000.0})
        for event in (started(resumed_from=30), step(31))
    ]
    state = first
    for event in again:
        state = reduce(state, event)
    assert pace(state, 9_002.0).elapsed == pytest.approx(30 * 0.25 + 2)


def test_a_failure_has_the_number_of_its_last_step(root: Path):
    events = [*beginning(), *(step(n) for n in range(1, 7)), FAILED.model_copy(update={"step": 0})]
    assert "failed at step 6 " in "\n".join(rendered(report(make_run(root), state_of(events), 80), 80))


def test_an_alert_names_three_rows_shortly():
    rows = tuple(f"/a/long/way/train.jsonl:{n}" for n in range(5))
    line = alert_line(Alert(code="x", message="5 rows", rows=rows)).plain
    assert line == "! 5 rows — train.jsonl:0, train.jsonl:1, train.jsonl:2, …"


def test_a_skipped_step_is_told_before_its_alert(root: Path):
    skipped = step(3).model_copy(update={"skipped": True, "loss": None})
    alert = Alert(code="non-finite", message="Step 3 was skipped", step=3)
    stream = io.StringIO()
    followed(PlainDisplay(stream), [started(), skipped, alert], make_run(root))
    told = stream.getvalue()
    assert told.index("step 3/60") < told.index("Step 3 was skipped")


def test_one_row_is_not_rows(root: Path):
    stream = io.StringIO()
    followed(PlainDisplay(stream), [started().model_copy(update={"train_rows": 1})], make_run(root))
    assert "1 row and 160 held out" in stream.getvalue()
