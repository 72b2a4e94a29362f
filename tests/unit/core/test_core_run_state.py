"""What a run's events amount to: folding them, and the histories that states share."""

from __future__ import annotations

from functools import reduce as fold

import pytest

from mlx_align.events import (
    Alert,
    Checkpoint,
    Eval,
    Event,
    Heartbeat,
    RunStopped,
    Sample,
)
from mlx_align.run_state import History, RunState, reduce
from tests.every_event import EVERY_TYPE, rollout, started, step


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


@pytest.mark.parametrize("first", [5.0, 0.0])
def test_times_are_those_of_the_first_and_the_last_event(first: float) -> None:
    state = fold(reduce, [Heartbeat(t=first), Heartbeat(t=7.0)], RunState())
    assert (state.first_t, state.last_t) == (first, 7.0)


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
        old = old.extend([number])
    new = old.extend([5, 6])
    assert new._items is old._items, "extending copies: folding n events would cost n * n"
    branch = old.extend([50])
    assert (list(old), list(new), list(branch)) == (
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4, 5, 6],
        [0, 1, 2, 3, 4, 50],
    )


def test_an_old_history_never_shows_a_newer_item() -> None:
    old: History[int] = History[int]().extend([1])
    newer = old.extend([2])
    assert (old[0], old[-1], old.last(), newer.last()) == (1, 1, 1, 2)
    for index in (1, -2):
        with pytest.raises(IndexError):
            old[index]
    assert (old.since(0), old.since(1), newer.since(1)) == ([1], [], [2])
    assert History[int]().last() is None


def test_histories_are_equal_where_their_items_are() -> None:
    old = History[int]().extend([1])
    old.extend([2])
    assert old == History[int]().extend([1])
    assert old != old.extend([3])
    assert old != [1]


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
