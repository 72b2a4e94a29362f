"""An event of every type, for tests that try them all."""

from __future__ import annotations

from typing import Any

from mlx_align.events import (
    Alert,
    Checkpoint,
    Completion,
    Eval,
    Event,
    Heartbeat,
    Memory,
    Phase,
    Plan,
    RewardFacts,
    Rollout,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sample,
    Scored,
    Step,
)


def started(resumed_from: int | None = None, attempt: int = 1) -> RunStarted:
    """The beginning of an attempt."""
    return RunStarted(
        method="orpo", model="tiny-chat", data="sample", backend="mlx", device="mlx:cpu", pid=1,
        total_steps=9, train_rows=8, valid_rows=2, trainable_parameters=3, resumed_from=resumed_from,
        attempt=attempt,
    )  # fmt: skip


def step(number: int, **more: Any) -> Step:
    """An update."""
    return Step(step=number, epoch=0.1, loss=1.0, learning_rate=1e-4, grad_norm=1.0, **more)


def rollout(number: int, at: int) -> Rollout:
    """What was sampled for an update."""
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
"""One of each."""
