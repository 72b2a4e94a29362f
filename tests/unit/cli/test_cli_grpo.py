"""What a person sees of GRPO, and how its rewards are named on the command line."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from example_run import FINISHED, TOTAL, make_run, state_of
from rich.cells import cell_len
from rich.console import Console

from mlx_align.events import (
    Completion,
    Eval,
    Event,
    Phase,
    RewardFacts,
    Rollout,
    RunFinished,
    RunStarted,
    Sample,
    Scored,
    Step,
)
from mlx_align.report import page
from mlx_align.run_state import RunState
from mlx_align_cli.display.facts import metric_rows
from mlx_align_cli.display.listing import headline
from mlx_align_cli.display.plain import PlainDisplay
from mlx_align_cli.display.report import next_lines, outcome, report
from mlx_align_cli.display.screen import screen


def started() -> RunStarted:
    return RunStarted(
        method="grpo", model="tiny-chat", data="sample", backend="mlx", device="mlx:cpu", pid=1,
        total_steps=TOTAL, train_rows=1000, valid_rows=200, trainable_parameters=131_072,
    )  # fmt: skip


def rollout(number: int) -> Rollout:
    facts, formed = RewardFacts(mean=0.625, std=0.48), RewardFacts(mean=0.25, std=0.43, failed=2)
    return Rollout(
        step=number + 1, number=number, prompts=8, completions=64, reward=facts,
        rewards={"numeric": facts, "format": formed}, spread=0.31, advantage_std=0.9, no_signal=0.125,
        refilled=3, length_mean=16.5, length_max=40, truncated=0.05, tokens=1056, seconds=0.5,
        scoring_seconds=0.01,
        best=Scored(prompt="What is 3 + 4?", completion="3 + 4 = 7.", rewards={"numeric": 1.0}, total=1.0),
        worst=Scored(prompt="What is 9 - 1?", completion="who knows", rewards={"numeric": 0.0}, total=0.0),
    )  # fmt: skip


def step(number: int) -> Step:
    metrics = {"reward": 0.625, "no_signal": 0.125, "length": 16.5, "truncated": 0.05, "kl": 0.012,
               "entropy": 0.34, "clip_low": 0.01, "clip_high": 0.02}  # fmt: skip
    return Step(
        step=number, epoch=0.1, loss=0.2, learning_rate=1e-3, grad_norm=0.1, metrics=metrics, tokens=2000,
        padded=2500, seconds=1.0,
    )  # fmt: skip


def evaluation(number: int) -> Eval:
    metrics = {"reward": 0.44 + number / 200, "exact": 0.44 + number / 200, "length": 17.6, "truncated": 0.0,
               "reward/numeric": 0.5, "pass@1": 0.4, "pass@8": 0.9}  # fmt: skip
    return Eval(step=number, rows=200, metrics=metrics, best=True)


def story() -> list[Event]:
    events: list[Event] = [started(), evaluation(0), Phase(name="training")]
    for number in range(TOTAL):
        events += [rollout(number), step(number + 1)]
    answers = (Completion(prompt="What is 3 + 4?", completion="7", chosen="7"),)
    return [*events, evaluation(TOTAL), Sample(step=TOTAL, completions=answers)]


def drawn(width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)
    console.print(screen(state_of(story()), "a-run", width=width, height=height))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("height", [20, 24, 28, 40])
def test_the_screen_fits(width: int, height: int) -> None:
    lines = drawn(width, height)
    assert len(lines) <= height
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("width", [50, 60, 70, 80, 90])
def test_no_figure_is_cut_in_the_last_line(width: int) -> None:
    (line,) = [line for line in drawn(width, 24) if "grad norm" in line]
    assert "…" not in line


def test_the_screen_shows_what_is_learnt_from() -> None:
    text = "\n".join(drawn(120, 40))
    for word in (
        "reward",
        "right answers",
        "without signal",
        "cut off",
        "entropy",
        "clipped below",
        "pass@8",
    ):
        assert word in text
    assert "sampling 2,112 tokens/s" in text
    assert "2,000 tokens/s" in text
    assert "3 + 4 = 7." in text
    assert "who knows" in text


def test_plain_lines_say_the_same() -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream)
    events = story()
    for count, event in enumerate(events, start=1):
        display.show(event, state_of(events[:count]))
    text = stream.getvalue()
    first = next(line for line in text.split("\n") if line.startswith("step 1/"))
    for part in ("reward 0.625", "length 16.500", "cut off 5.0%", "no signal 12.5%", "KL 0.012",
                 "entropy 0.340", "clipped below 1.0%", "above 2.0%"):  # fmt: skip
        assert part in first, first
    assert "rollout 1, 64 completions: reward 0.625 ± 0.480, numeric 0.625 ± 0.480" in text
    assert "3 groups replaced" in text
    assert "  best (1.000): What is 3 + 4? -> 3 + 4 = 7." in text
    assert "eval at step 0: reward 0.440, right answers 44.0%" in text
    assert "pass@8 90.0%" in text


def test_all_answers_could_be_scored_where_nothing_is_said_of_it(tmp_path: Path) -> None:
    """An evaluation leaves the share out where it is 0; that is no dash beside one that has it."""
    last = evaluation(TOTAL)
    last = last.model_copy(update={"metrics": {**last.metrics, "unscored": 0.05}})
    run = make_run(tmp_path, [*story()[:-2], last, FINISHED])
    stream = io.StringIO()
    PlainDisplay(stream).end(run, run.state())
    assert "held out not scored: 0.0% -> 5.0%" in stream.getvalue()
    assert "unscored 0.0% 5.0%" in " ".join(re.sub("<[^>]*>", " ", page(run)).split())
    without = make_run(tmp_path, [*story(), FINISHED])
    assert not [row for row in metric_rows(without.state()) if row.key == "unscored"]
    assert "unscored" not in page(without)


def test_the_report_has_rewards_before_and_after(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*story(), FINISHED])
    stream = io.StringIO()
    PlainDisplay(stream).end(run, run.state())
    assert "held out reward: 0.440 -> 0.740 after step 60" in stream.getvalue()
    assert "held out right answers: 44.0% -> 74.0%" in stream.getvalue()
    console = Console(file=io.StringIO(), width=100)
    console.print(report(run, run.state(), 100))
    assert "finished" in console.file.getvalue()


def test_the_list_of_runs_shows_the_reward() -> None:
    assert headline({"reward": 0.5, "exact": 0.25, "loss": 1.0}) == "reward 0.500, exact 25.0%"


# The command


def settings(cli, *arguments: str) -> dict[str, dict[str, object]]:
    return json.loads(cli("grpo", "--dry-run", "--json", *arguments).out)


def test_rewards_are_named_with_their_weights(cli) -> None:
    given = settings(cli, "--reward", "numeric=2", "--reward", "format")
    assert given["rewards"]["origin"] == "flag"
    assert given["rewards"]["value"] == [
        {"name": "numeric", "weight": 2.0},
        {"name": "format", "weight": 1.0},
    ]
    assert settings(cli)["rewards"]["origin"] == "catalog tiny-chat"


def test_a_wrong_reward_is_refused_with_the_choices(cli) -> None:
    wrong = cli("grpo", "--dry-run", "--reward", "telepathy")
    assert wrong.code == 2
    assert "unknown reward 'telepathy'" in wrong.err
    assert "numeric" in wrong.err
    assert cli("grpo", "--dry-run", "--reward", "numeric=much").code == 2
    assert "--reward numeric" in cli("grpo", "some/model", "rows.jsonl", "--dry-run").err


def test_only_methods_that_sample_speak_of_rewards(cli) -> None:
    assert "--reward" in cli("grpo", "--help").out
    assert "--reward" not in cli("orpo", "--help").out
    assert "--tokens-per-batch" not in cli("grpo", "--help").out
    assert "--tokens-per-batch" in cli("orpo", "--help").out
    assert "small-mac" in cli("grpo", "--help").out
    assert "small-mac" not in cli("orpo", "--help").out
    refused = cli("orpo", "--dry-run", "--reward", "numeric")
    assert refused.code == 2
    assert "no meaning for orpo" in refused.err


# How it ended


def ended(*, best_step: int | None = TOTAL, **changed: Any) -> RunState:
    """A run whose rollouts were all like this."""
    events = [event.model_copy(update=changed) if isinstance(event, Rollout) else event for event in story()]
    end = RunFinished(step=TOTAL, reason="completed", adapter="adapter", best_step=best_step)
    return state_of([*events, end])


def test_a_run_that_learnt_nothing_says_why() -> None:
    assert outcome(ended()).plain.startswith("✓")
    unscored = ended(reward=RewardFacts(mean=None, std=None, failed=64))
    assert "no completion could be scored" in outcome(unscored).plain
    assert "in no group did the rewards differ" in outcome(ended(no_signal=1.0)).plain
    assert "more steps" in outcome(ended(best_step=0)).plain


def test_what_has_taught_nothing_is_not_offered_to_be_tried(tmp_path: Path) -> None:
    run = make_run(tmp_path, story())
    assert next_lines(run, ended(), 80)
    assert next_lines(run, ended(no_signal=1.0), 80) == []
