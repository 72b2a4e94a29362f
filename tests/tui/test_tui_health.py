"""What the health line says of runs that are well and of runs that are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mlx_align.events import Eval, Event, Memory, RewardFacts, Rollout, RunStarted, Step
from mlx_align.run_state import RunState, reduce
from mlx_align_tui.live import health
from tests.tui.fake_engine import written


def state_of(events: Sequence[Event], method: str = "orpo", total: int = 200) -> RunState:
    started = RunStarted(
        method=method,
        model="m",
        data="d",
        backend="mlx",
        device="cpu",
        pid=1,
        total_steps=total,
        train_rows=1,
        valid_rows=1,
        trainable_parameters=1,
        t=1.0,
    )
    state = reduce(RunState(), started)
    for event in events:
        state = reduce(state, event)
    return state


def step(number: int, loss: float | None = 1.0, *, skipped: bool = False, **metrics: float) -> Step:
    return Step(
        step=number, epoch=0.0, loss=loss, learning_rate=1e-5, grad_norm=1.0, metrics=metrics, skipped=skipped
    )


def held_out(number: int, **metrics: float) -> Eval:
    return Eval(step=number, rows=10, metrics=metrics)


def rollout(number: int, *, length: float = 50, truncated: float = 0.0, no_signal: float = 0.1) -> Rollout:
    return Rollout(
        step=number,
        number=number,
        prompts=4,
        completions=32,
        reward=RewardFacts(mean=0.5, std=0.1),
        rewards={},
        spread=0.1,
        advantage_std=1.0,
        no_signal=no_signal,
        length_mean=length,
        length_max=100,
        truncated=truncated,
        tokens=1,
        seconds=1.0,
        scoring_seconds=0.1,
    )


def titles(state: RunState, **options: float) -> list[str]:
    return [finding.title for finding in health.findings(state, **options)]


@pytest.mark.parametrize("method", ["orpo", "grpo"])
def test_a_run_that_learns_is_healthy(tmp_path: Path, method: str) -> None:
    assert titles(written(tmp_path, method=method).state()) == ["healthy"]


def test_nothing_is_said_before_there_is_something() -> None:
    assert titles(state_of([step(1)])) == []


def test_updates_that_are_not_finite() -> None:
    steps = [step(n) for n in range(1, 30)] + [step(n, None, skipped=True) for n in range(30, 33)]
    assert titles(state_of(steps)) == ["diverging"]
    assert titles(state_of(steps[:-1])) == ["healthy"], "two may happen"


def test_a_loss_that_leaves_the_ground_it_had_won() -> None:
    falling = [step(n, 2.0 - n / 100) for n in range(1, 101)]
    rising = [step(n, 1.0 + (n - 100) / 20) for n in range(101, 161)]
    assert titles(state_of(falling)) == ["healthy"]
    assert titles(state_of(falling + rising)) == ["diverging"]
    assert health.findings(state_of(falling + rising))[0].level == "error"


def test_learning_by_heart() -> None:
    steps = [step(n, 2.0 - n / 100) for n in range(1, 101)]
    good = [held_out(n, loss=2.0 - n / 200) for n in range(0, 101, 20)]
    bad = [*good[:3], *(held_out(20 * n, loss=1.4 + n / 5) for n in range(3, 7))]
    assert "overfitting" not in titles(state_of([*steps, *good]))
    assert "overfitting" in titles(state_of([*steps, *bad]))


def test_guessing_is_no_signal() -> None:
    steps = [step(n, 0.69, accuracy=0.5) for n in range(1, 121)]
    assert titles(state_of(steps)) == ["no signal"]
    assert titles(state_of(steps, total=1000)) == ["healthy"], "it is too early to say"
    assert titles(state_of([step(n, 0.69, accuracy=0.7) for n in range(1, 101)])) == ["healthy"]


def test_groups_whose_answers_are_all_worth_the_same() -> None:
    assert titles(state_of([rollout(n, no_signal=0.9) for n in range(80)], "grpo")) == ["no signal"]
    assert titles(state_of([rollout(n, no_signal=0.9) for n in range(10)], "grpo")) == [], "it is too early"
    assert titles(state_of([rollout(n, no_signal=0.5) for n in range(80)], "grpo")) == []


def test_answers_that_get_longer_or_are_cut_off() -> None:
    assert titles(state_of([rollout(n, length=50 + 3 * n) for n in range(24)], "grpo")) == [
        "length creeps up"
    ]
    assert titles(state_of([rollout(n, truncated=0.5) for n in range(12)], "grpo")) == ["answers cut off"]
    assert titles(state_of([rollout(n, length=50) for n in range(12)], "grpo")) == []


def test_both_answers_become_less_likely() -> None:
    def evals(chosen: float) -> list[Event]:
        return [held_out(n, chosen_reward=chosen * n, margin=0.1 * n, loss=1.0 - n / 100) for n in range(4)]

    assert titles(state_of(evals(-0.5), "dpo")) == ["chosen answers fall too"]
    assert titles(state_of(evals(0.1), "dpo")) == []


@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_rewards_that_are_likelihoods_say_nothing_by_falling(method: str) -> None:
    evals = [held_out(n, chosen_reward=-3.0 - n, margin=0.1 * n, loss=1.0 - n / 100) for n in range(4)]
    assert titles(state_of(evals, method)) == []


def test_memory_that_is_nearly_full() -> None:
    assert titles(state_of([Memory(step=1, active=1, peak=97, limit=100)])) == ["memory nearly full"]
    assert titles(state_of([Memory(step=1, active=1, peak=97)])) == []


def test_an_engine_that_is_silent_while_it_lives() -> None:
    state = state_of([step(1).model_copy(update={"t": 1000.0})])
    assert titles(state, now=1500.0) == ["silent"]
    assert titles(state, now=1005.0) == []
    assert health.findings(state, now=state.last_t + 1e6, running=False) == []


def test_the_worst_comes_first() -> None:
    steps = [step(n, None, skipped=True) for n in range(1, 30)]
    state = state_of([*steps, Memory(step=1, active=1, peak=99, limit=100)])
    assert titles(state) == ["diverging", "memory nearly full"]
