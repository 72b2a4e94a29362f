"""What a run says, and the one function that folds it."""

from __future__ import annotations

import json
import math
from functools import reduce as fold
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from mlx_align.events import (
    Alert,
    AnyEvent,
    Checkpoint,
    Completion,
    Eval,
    Event,
    Heartbeat,
    History,
    Memory,
    Phase,
    Plan,
    RewardFacts,
    Rollout,
    RunFailed,
    RunFinished,
    RunStarted,
    RunState,
    RunStopped,
    Sample,
    Scored,
    Step,
    parse,
    reduce,
)


def started(resumed_from: int | None = None, attempt: int = 1) -> RunStarted:
    return RunStarted(
        method="orpo", model="tiny-chat", data="sample", backend="mlx", device="mlx:cpu", pid=1,
        total_steps=9, train_rows=8, valid_rows=2, trainable_parameters=3, resumed_from=resumed_from,
        attempt=attempt,
    )  # fmt: skip


def step(number: int, **more: Any) -> Step:
    return Step(step=number, epoch=0.1, loss=1.0, learning_rate=1e-4, grad_norm=1.0, **more)


def rollout(number: int, at: int) -> Rollout:
    facts = RewardFacts(mean=0.5, std=0.5, failed=1)
    one = Scored(prompt="p", completion="c", rewards={"numeric": 1.0, "format": None}, total=None)
    return Rollout(
        step=at, number=number, prompts=2, completions=8, reward=facts, rewards={"numeric": facts},
        spread=0.4, advantage_std=0.9, no_signal=0.5, refilled=1, length_mean=3.5, length_max=9,
        truncated=0.25, tokens=28, seconds=0.5, scoring_seconds=0.1, best=one, worst=one,
    )  # fmt: skip


EVERY_TYPE: list[Event] = [
    started(),
    Phase(name="reference", detail="x", done=1, total=2),
    step(1, metrics={"margin": 0.5}),
    rollout(0, 1),
    Eval(step=1, rows=2, metrics={"loss": 1.0}, best=True),
    Sample(step=1, completions=(Completion(prompt="p", completion="c", chosen="a", rejected="b"),)),
    Checkpoint(step=1, path="checkpoints/step-000001", best=True),
    Memory(step=1, active=1, peak=2, limit=3),
    Plan(moment="loss", parts={"weights": 2, "head": 1}, total=3, available=4, verdict="fits", advice="a"),
    Alert(code="leak", message="m", rows=("a:1",)),
    Heartbeat(step=1),
    RunFinished(step=2, reason="completed", adapter="a", best_step=1),
    RunStopped(step=2, checkpoint="c"),
    RunFailed(step=2, kind="data", message="m", where="w", hint="h", exit_code=3),
]


@pytest.mark.parametrize("event", EVERY_TYPE, ids=lambda event: event.type)
def test_an_event_survives_its_line(event: Event) -> None:
    line = event.model_dump_json()
    assert "\n" not in line
    assert parse(line) == event
    assert json.loads(line)["v"] == 1


def test_every_type_is_tried() -> None:
    assert {type(event) for event in EVERY_TYPE} == set(get_args(get_args(AnyEvent)[0]))


# Newer and damaged lines


@pytest.mark.parametrize(
    "line",
    [
        '{"type":"telepathy","step":1}',
        '{"step":1}',
        "[]",
        "",
        '{"type":"step","st',
        '{"type":"heartbeat","step":"many"}',
        b'{"type":"heartbeat","step":\xff}',
    ],
)
def test_a_line_that_is_unknown_or_unreadable_is_nothing(line: str | bytes) -> None:
    assert parse(line) is None


def test_fields_of_a_newer_version_are_ignored() -> None:
    event = parse('{"type":"heartbeat","step":3,"v":2,"mood":"calm"}')
    assert isinstance(event, Heartbeat)
    assert (event.step, event.v) == (3, 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(value: float) -> None:
    line = Step(
        step=1, epoch=0.0, loss=value, learning_rate=0.1, grad_norm=value, metrics={"margin": value}
    ).model_dump_json()

    def not_json(text: str) -> float:
        raise AssertionError(f"{text} is not JSON")

    raw = json.loads(line, parse_constant=not_json)
    assert (raw["loss"], raw["grad_norm"], raw["metrics"]["margin"]) == (None, None, None)
    event = parse(line)
    assert isinstance(event, Step)
    assert event.loss is None


def test_events_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        step(1).step = 2  # type: ignore[misc]


# Folding


def test_each_event_leaves_its_trace() -> None:
    state = fold(reduce, EVERY_TYPE[:11], RunState())
    assert state.status == "running"
    assert state.started == EVERY_TYPE[0]
    assert state.phase == EVERY_TYPE[1]
    assert state.step == 1
    for history, event in zip(
        (state.steps, state.rollouts, state.evals, state.samples, state.checkpoints),
        EVERY_TYPE[2:7],
        strict=True,
    ):
        assert list(history) == [event]
    assert state.memory == EVERY_TYPE[7]
    assert state.plan == EVERY_TYPE[8]
    assert list(state.alerts) == [EVERY_TYPE[9]]
    assert state.best == EVERY_TYPE[4]
    for last, status in zip(EVERY_TYPE[11:], ("finished", "stopped", "failed"), strict=True):
        ended = reduce(state, last)
        assert (ended.status, ended.end) == (status, last)


def test_times_are_those_of_the_first_and_the_last_event() -> None:
    state = fold(reduce, [Heartbeat(t=5.0), Heartbeat(t=7.0)], RunState())
    assert (state.first_t, state.last_t) == (5.0, 7.0)


def test_reducing_never_changes_the_old_state() -> None:
    old = fold(reduce, [started(), step(1), step(2)], RunState())
    before = (old.step, old.status, list(old.steps))
    one, other = reduce(old, step(3)), reduce(old, step(3, skipped=True))
    resumed = reduce(old, started(resumed_from=1, attempt=2))
    assert (old.step, old.status, list(old.steps)) == before
    assert [s.skipped for s in one.steps] == [False, False, False]
    assert [s.skipped for s in other.steps] == [False, False, True]
    assert [s.step for s in resumed.steps] == [1]


def test_a_resumed_attempt_forgets_what_comes_again() -> None:
    log: list[Event] = [started(), Alert(code="leak", message="of the data")]
    for number in range(1, 7):
        log += [
            step(number),
            Eval(step=number, rows=1, metrics={}, best=number == 5),
            Sample(step=number, completions=()),
            Checkpoint(step=number, path="x"),
            Alert(code="non-finite", message="m", step=number),
        ]
    state = fold(reduce, [*log, RunStopped(step=6, checkpoint="x")], RunState())
    state = reduce(state, started(resumed_from=4, attempt=2))
    assert (state.status, state.end, state.step, state.attempt) == ("running", None, 4, 2)
    for history in (state.steps, state.evals, state.samples, state.checkpoints):
        assert [item.step for item in history] == [1, 2, 3, 4]
    assert [alert.step for alert in state.alerts] == [0, 1, 2, 3, 4]
    assert state.best is None


def test_an_attempt_that_begins_anew_forgets_all_but_what_it_said_itself() -> None:
    first: list[Event] = [Alert(code="too-long", message="m"), started(), step(1)]
    again = Alert(code="too-long", message="m", attempt=2)
    state = fold(reduce, [*first, again, started(attempt=2)], RunState())
    assert (state.step, len(state.steps)) == (0, 0)
    assert list(state.alerts) == [again]


def test_a_long_run_folds() -> None:
    begun = reduce(RunState(), started())
    state = fold(reduce, [step(1)] * 100_000, begun)
    assert len(state.steps) == 100_000
    assert len(begun.steps) == 0


# Histories


def test_histories_share_what_they_have_in_common() -> None:
    old: History[int] = History()
    for number in range(5):
        old = old.append(number)
    new = old.append(5)
    assert new._items is old._items, "appending copies: folding n events would cost n * n"
    branch = old.append(50)
    assert (list(old), list(new), list(branch)) == (
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 50],
    )


def test_an_old_history_never_shows_a_newer_item() -> None:
    old: History[int] = History[int]().append(1)
    newer = old.append(2)
    assert (old[0], old[-1], old.last(), newer.last()) == (1, 1, 1, 2)
    for index in (1, -2):
        with pytest.raises(IndexError):
            old[index]
    assert History[int]().last() is None


def test_a_rollout_that_is_sampled_again_counts_once() -> None:
    """Between rollouts a resume samples the next one anew; in the middle of one it has it already."""
    before = [started(), rollout(0, 1), step(1), step(2), rollout(1, 3), step(3)]
    again = [started(resumed_from=2, attempt=2), rollout(1, 3).model_copy(update={"tokens": 99})]
    state = fold(reduce, before, RunState())
    assert [r.number for r in fold(reduce, [started(resumed_from=2, attempt=2)], state).rollouts] == [0, 1]
    assert [r.number for r in fold(reduce, [started(resumed_from=0, attempt=2)], state).rollouts] == [0]
    repeated = fold(reduce, again, state)
    assert [(r.number, r.tokens) for r in repeated.rollouts] == [(0, 28), (1, 99)]
    assert [(r.number, r.tokens) for r in state.rollouts] == [(0, 28), (1, 28)]
