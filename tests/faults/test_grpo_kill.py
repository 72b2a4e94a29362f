"""GRPO killed with -9 while it samples and while it updates, then resumed: the same run, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_align.engine.launch import launch
from mlx_align.events import Checkpoint, Event, Phase, Rollout, RunStarted, Step
from mlx_align.runs import Checkpoints, RunDirectory
from tests import support
from tests.same_run import assert_same

SETTINGS: dict[str, Any] = {
    "train__steps": 10,
    "train__accumulate": 2,
    "train__batch_size": 1,
    "rollout__updates": 2,
    "method__num_iterations": 2,
    "method__group_size": 4,
    "method__beta": 0.01,
    "method__refill_limit": 1,
    "sampling__max_tokens": 16,
    "eval__every": 5,
    "checkpoint__every": 3,
    "optim__lr": 1e-3,
}
"""Four updates of a rollout, in two passes; saved in the middle of rollouts, of passes and of windows."""


def sampling(event: Event) -> bool:
    return isinstance(event, Phase) and event.name == "sampling"


MOMENTS: list[Callable[[Event], bool]] = [
    lambda event: isinstance(event, RunStarted),
    sampling,
    lambda event: isinstance(event, Rollout),
    lambda event: isinstance(event, Checkpoint) and event.step == 3,
    lambda event: isinstance(event, Step) and event.step == 4,
    sampling,
    lambda event: isinstance(event, Step) and event.step == 8,
]
"""Each attempt is killed when it first comes to this."""


def kill_at(run: RunDirectory, moment: Callable[[Event], bool]) -> None:
    engine = launch(run)
    for event in engine.events():
        if moment(event):
            engine.kill()
            engine.process.wait()
            return
    raise AssertionError("the run was over before")


@pytest.mark.slow
def test_killed_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    undisturbed = support.new_run(tmp_path / "a", "grpo", **SETTINGS)
    assert support.engine(undisturbed) == 0
    run = support.new_run(tmp_path / "b", "grpo", **SETTINGS)
    for moment in MOMENTS:
        kill_at(run, moment)
    assert support.engine(run) == 0
    assert_same(run, undisturbed)
    assert told(run) == told(undisturbed)


def told(run: RunDirectory) -> list[dict[str, Any]]:
    """What was said of each rollout, without times."""
    untimed = {"v", "seq", "attempt", "t", "seconds", "scoring_seconds"}
    return [event.model_dump(exclude=untimed) for event in run.state().rollouts]


def test_stopped_in_the_middle_of_rollouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop at every fourth question for one: while it samples and at micro-batches; the rollout is kept."""
    from mlx_align.runs import Control

    settings = {**SETTINGS, "train__steps": 5, "eval__samples": 0}
    undisturbed = support.new_run(tmp_path / "a", "grpo", **settings)
    assert support.engine(undisturbed) == 0
    run = support.new_run(tmp_path / "b", "grpo", **settings)
    asked = [0]

    def every_fourth_question(self: Control, what: str) -> bool:
        asked[0] += what == "stop"
        return what == "stop" and asked[0] % 4 == 0

    monkeypatch.setattr(Control, "requested", every_fourth_question)
    codes, kept = [support.engine(run)], []
    while codes[-1] == 130 and len(codes) < 30:
        latest = run.checkpoints().latest()
        kept.append(latest is not None and "rollout.ids" in Checkpoints.load(latest).training)
        codes.append(support.engine(run))
    assert codes[-1] == 0
    assert len(codes) >= 3
    assert any(kept)
    assert_same(run, undisturbed)
    latest = undisturbed.checkpoints().latest()
    assert latest is not None
    assert "rollout.ids" in Checkpoints.load(latest).training  # it ends in the middle of the second rollout
