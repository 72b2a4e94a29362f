"""Moments and rows that are easily forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import mlx_align
from mlx_align.backends.base import Objective, Scores
from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.batch import Batch
from mlx_align.engine.launch import launch
from mlx_align.engine.schedule import learning_rate
from mlx_align.errors import InterruptedRunError
from mlx_align.events import Event, Phase, RunStarted
from mlx_align.runs import Control, RunDirectory
from tests import support
from tests.same_run import assert_same


def accumulate_with(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> None:
    """Let `spoil(call number, scores)` change what the trainer hears of each micro-batch."""
    accumulate = MlxPolicy.accumulate
    calls = iter(range(1_000_000))

    def spoiled(
        self: MlxPolicy, batch: Batch, objective: Objective, counts: Mapping[str, float], *, seed: int
    ) -> Scores:
        return spoil(next(calls), accumulate(self, batch, objective, counts, seed=seed))

    monkeypatch.setattr(MlxPolicy, "accumulate", spoiled)


def with_bad_loss(scores: Scores) -> Scores:
    return Scores(dict.fromkeys(scores.sums, float("nan")), scores.metrics, scores.logps)


def test_stopped_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed, it neither evaluates the start again nor counts that as an evaluation without a new best."""
    settings = {"eval__patience": 1, "eval__every": 2}
    undisturbed = support.new_run(tmp_path / "a", "orpo", **settings)
    assert support.engine(undisturbed) == 0
    run = support.new_run(tmp_path / "b", "orpo", **settings)
    original = Control.requested

    def at_once(self: Control, what: str) -> bool:
        return what == "stop" and (run.path / "checkpoints" / "step-000000").exists()

    monkeypatch.setattr(Control, "requested", at_once)
    assert support.engine(run) == 130
    assert run.state().step == 0
    monkeypatch.setattr(Control, "requested", original)
    assert support.engine(run) == 0
    assert_same(run, undisturbed)


def test_a_loss_that_is_not_finite_is_not_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its gradient is: an infinite log-probability can lose its gradient on the way."""
    accumulate_with(monkeypatch, lambda call, scores: with_bad_loss(scores))
    run = support.new_run(tmp_path, "simpo", guard__nonfinite_limit=2)
    assert support.engine(run) == 5
    assert [step.skipped for step in run.state().steps] == [True, True]
    adapter = load_file((run.checkpoints().latest() or run.path) / "adapters.safetensors")
    assert not any(value.any() for name, value in adapter.items() if name.endswith("lora_b"))


def test_only_bad_updates_in_a_row_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulate_with(monkeypatch, lambda call, scores: with_bad_loss(scores) if call in (1, 3, 5) else scores)
    run = support.new_run(tmp_path, "simpo", train__steps=7, guard__nonfinite_limit=2)
    assert support.engine(run) == 0
    assert [step.step for step in run.state().steps if step.skipped] == [2, 4, 6]


def test_every_epoch_has_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    accumulate = MlxPolicy.accumulate

    def noted(self: MlxPolicy, batch: Batch, *rest: Any, **named: Any) -> Scores:
        seen.append(batch.rows)
        return accumulate(self, batch, *rest, **named)

    monkeypatch.setattr(MlxPolicy, "accumulate", noted)
    run = support.new_run(tmp_path, "orpo", train__steps=None, train__epochs=2.0, train__batch_size=4)
    assert support.engine(run) == 0
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert sorted(sum(first, ())) == sorted(sum(second, ()))
    assert len(set(sum(first, ()))) == 24
    assert first != second


def test_epochs_are_not_rounded_up_to_whole_windows(tmp_path: Path) -> None:
    run = support.new_run(
        tmp_path, "orpo", train__steps=None, train__epochs=1.0, train__batch_size=5, train__accumulate=4
    )
    assert support.engine(run) == 0
    last = run.state().steps.last()
    assert last is not None
    assert (last.step, last.epoch) == (2, 1.0)  # 24 rows are 5 micro-batches: one window of 4, one of 1


def test_the_schedule_reaches_the_optimiser(tmp_path: Path) -> None:
    run = support.new_run(tmp_path, "orpo", optim__warmup=0.5, optim__schedule="linear")
    assert support.engine(run) == 0
    optim = run.config().optim
    assert [step.learning_rate for step in run.state().steps] == [
        learning_rate(step, 4, optim) for step in range(4)
    ]
    assert len({step.learning_rate for step in run.state().steps}) > 1


def test_a_module_beside_the_data_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')\n", encoding="utf-8")
    run = support.new_run(tmp_path / "runs", "orpo", train__steps=1)
    assert RunStarted in map(type, list(launch(run).events())), run.log.read_text()


def test_killed_while_loading_is_a_crash(tmp_path: Path) -> None:
    run = support.new_run(tmp_path, "orpo")
    engine = launch(run)
    for event in engine.events():
        if isinstance(event, Phase):
            break
    engine.kill()
    engine.process.wait()
    assert run.condition(run.state()) == "crashed"


def test_align_says_when_it_was_stopped(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, RunStarted):
            (newest,) = (tmp_path / "runs").iterdir()
            RunDirectory(newest).control.request("stop")

    with pytest.raises(InterruptedRunError):
        mlx_align.align("orpo", settings={**support.FAST, "backend.device": "cpu"}, on_event=stop)


def test_no_improvement_is_said(tmp_path: Path) -> None:
    run = support.new_run(tmp_path, "orpo", optim__lr=30.0)
    assert support.engine(run) == 0
    state = run.state()
    assert "no-improvement" in [alert.code for alert in state.alerts]
    adapter = load_file(run.adapter / "adapters.safetensors")
    assert all(np.all(value == 0) for name, value in adapter.items() if name.endswith("lora_b"))
