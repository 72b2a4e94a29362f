"""Folding a log in batches of any size says what folding it event by event says, for events of every type."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce as fold
from typing import Any, get_args

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlx_align.events import (
    Alert,
    AnyEvent,
    Checkpoint,
    Eval,
    Event,
    Memory,
    Phase,
    Plan,
    Rollout,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Step,
)
from mlx_align.run_state import History, RunState, reduce, reduce_all
from mlx_align_tui.live.columns import Columns
from tests.every_event import EVERY_TYPE


def changed(event: Event, changes: dict[str, Any]) -> Event:
    return event.model_copy(update={k: v for k, v in changes.items() if k in type(event).model_fields})


CHANGES = st.fixed_dictionaries(
    {
        "attempt": st.integers(1, 3),
        "t": st.sampled_from([0.0, 1.0, 2.0]),
        "step": st.integers(0, 5),
        "number": st.integers(0, 4),
        "tokens": st.integers(0, 3),
        "resumed_from": st.none() | st.integers(0, 5),
    }
)
EVENTS = st.lists(st.builds(changed, st.sampled_from(EVERY_TYPE), CHANGES), max_size=30)
SIZES = st.lists(st.integers(1, 10), min_size=1)


def batches(events: list[Event], sizes: list[int]) -> list[list[Event]]:
    """The events in batches of these sizes, over and over."""
    cut, start = [], 0
    while start < len(events):
        size = sizes[len(cut) % len(sizes)]
        cut.append(events[start : start + size])
        start += size
    return cut


def plainly(state: RunState, event: Event) -> RunState:
    """The slow twin: one event, one state, one case for each type."""
    if event.attempt > state.attempt:
        state = replace(state, status="running", end=None)
    first_t = state.first_t if state.attempt else event.t
    state = replace(state, last_t=event.t, attempt=event.attempt, first_t=first_t)
    match event:
        case RunStarted():
            return begun(state, event, -1 if event.resumed_from is None else event.resumed_from)
        case Step():
            return replace(state, step=event.step, steps=of([*state.steps, event]))
        case Rollout():
            earlier = [rollout for rollout in state.rollouts if rollout.number < event.number]
            return replace(state, rollouts=of([*earlier, event]))
        case Eval() | Sample() | Checkpoint() | Alert():
            name = f"{event.type}s"
            return replace(state, **{name: of([*getattr(state, name), event])})
        case Phase() | Memory() | Plan():
            return replace(state, **{event.type: event})
        case RunFinished() | RunStopped() | RunFailed():
            return replace(state, status=event.type.removeprefix("run_"), end=event)
    return state


def begun(state: RunState, event: RunStarted, kept: int) -> RunState:
    """The state when an attempt says that it goes on after a step."""
    until = {"steps": kept, "rollouts": kept + 1, "evals": kept, "samples": kept, "checkpoints": kept}
    histories = {
        name: of([item for item in getattr(state, name) if item.step <= last]) for name, last in until.items()
    }
    alerts = of([alert for alert in state.alerts if alert.attempt == event.attempt or alert.step <= kept])
    state = replace(state, status="running", started=event, end=None, phase=None, step=max(kept, 0))
    return replace(state, **histories, alerts=alerts)


def of(items: list[Any]) -> History[Any]:
    return History[Any]().extend(items)


def test_events_of_every_type_are_folded() -> None:
    assert {type(event) for event in EVERY_TYPE} == set(get_args(get_args(AnyEvent)[0]))


@given(EVENTS, SIZES)
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_batch_says_what_its_events_say(events: list[Event], sizes: list[int]) -> None:
    expected = fold(plainly, events, RunState())
    assert fold(reduce, events, RunState()) == expected
    assert fold(reduce_all, batches(events, sizes), RunState()) == expected


@given(EVENTS, st.lists(st.integers(0, 30), max_size=3))
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_state_stays_what_it_was_while_others_are_made_of_it(events: list[Event], cuts: list[int]) -> None:
    for cut in cuts:
        early = reduce_all(RunState(), events[:cut])
        for _ in range(2):
            assert reduce_all(early, events[cut:]) == fold(plainly, events, RunState())
        assert early == fold(plainly, events[:cut], RunState())


@given(EVENTS, SIZES)
@hypothesis_settings(max_examples=100, deadline=None)
def test_curves_that_grow_with_a_run_are_those_of_its_state(events: list[Event], sizes: list[int]) -> None:
    state, growing, whole = RunState(), Columns(), Columns()
    for batch in batches(events, sizes):
        state = reduce_all(state, batch)
        growing.follow(state)
    whole.follow(state)
    found, expected = growing.curves(), whole.curves()
    for key, series in expected.items():
        for name in ("step", "seconds", "value"):
            np.testing.assert_array_equal(getattr(found[key], name), getattr(series, name))
    assert all(np.isnan(found[key].value).all() for key in found.keys() - expected.keys())
