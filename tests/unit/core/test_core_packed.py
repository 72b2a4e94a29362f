"""Updates as columns: each comes out as it went in, and takes little memory."""

from __future__ import annotations

import tracemalloc

import pytest

from mlx_align.events import Step
from mlx_align.packed import PackedSteps
from mlx_align.run_state import RunState, Steps, reduce, reduce_all
from tests.every_event import started, step

METRICS = ("margin", "accuracy", "chosen_reward", "rejected_reward", "nll", "log_odds")
MIXED = [
    step(1, metrics={"margin": 0.5, "accuracy": None}, tokens=3, padded=4, seconds=0.5, t=7.5, seq=4),
    step(2),
    step(3, metrics={"accuracy": 1.0, "margin": -2.0}, skipped=True, attempt=2),
    Step(step=4, epoch=0.2, loss=None, learning_rate=0.0, grad_norm=float("inf"), metrics={"kl": 0.25}),
]


@pytest.fixture
def packed() -> PackedSteps:
    made = PackedSteps()
    made.extend(MIXED[:1])
    made.extend(MIXED[1:])
    return made


def test_updates_come_out_as_they_went_in(packed: PackedSteps) -> None:
    assert list(packed) == MIXED
    assert [each.model_dump_json() for each in packed] == [each.model_dump_json() for each in MIXED]
    assert [packed[n] for n in range(len(packed))] == MIXED


def test_a_copy_is_a_copy(packed: PackedSteps) -> None:
    part, chosen = packed[1:3], packed.chosen([True, False, False, True])
    packed.extend(MIXED)
    part.extend(MIXED[3:])
    assert list(part) == MIXED[1:]
    assert list(chosen) == [MIXED[0], MIXED[3]]


def test_columns(packed: PackedSteps) -> None:
    steps = Steps(packed, 3)
    assert steps.column("step") == [1, 2, 3]
    assert steps.column("skipped", 1) == [False, True]
    assert Steps(packed, 4).column("loss") == [1.0, 1.0, 1.0, None]
    assert steps.metric("margin") == [0.5, None, -2.0]
    assert steps.metric("margin", 2) == [-2.0]
    assert steps.metric("unknown", 1) == [None, None]
    assert steps.metrics == ["margin", "accuracy", "kl"]
    assert packed[1:3].metrics == ["margin", "accuracy"]


def test_what_a_resume_keeps_is_no_matter_of_order() -> None:
    begun = reduce_all(RunState(), [started(), step(1), step(3), step(2), step(4)])
    assert [each.step for each in begun.steps.until(2)] == [1, 2]
    assert [each.step for each in begun.steps] == [1, 3, 2, 4]


def test_a_history_knows_what_it_continues() -> None:
    begun = reduce_all(RunState(), [started(), step(1), step(2)])
    grown = reduce_all(begun, [step(3)])
    resumed = reduce_all(grown, [started(resumed_from=2, attempt=2), step(3)])
    assert grown.steps.continues(begun.steps)
    assert not begun.steps.continues(grown.steps)
    assert not resumed.steps.continues(grown.steps)
    assert resumed.steps.continues(Steps())


def test_a_long_run_takes_little_memory() -> None:
    count, state = 2_000, reduce(RunState(), step(0))
    tracemalloc.start()
    for n in range(1, count):
        state = reduce(state, step(n, metrics=dict.fromkeys(METRICS, 0.1 * n)))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / count < 200, "as objects they take ten times as much, in each reader of the run"
    assert state.steps[count - 1].step == count - 1
