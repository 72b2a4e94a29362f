"""A loss or gradient that is not finite: skipped, named, and in the end given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_align.backends.base import Objective, Scores
from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.batch import Batch
from mlx_align.events import RunFailed
from tests import support


def spoil(monkeypatch: pytest.MonkeyPatch, bad_calls: range) -> None:
    """Give some calls of accumulate() a row of the batch whose mask, and so whose loss, is NaN."""
    accumulate = MlxPolicy.accumulate
    calls = iter(range(1_000_000))

    def spoiled(
        self: MlxPolicy, batch: Batch, objective: Objective, counts: Mapping[str, float], *, seed: int
    ) -> Scores:
        if next(calls) in bad_calls:
            mask = batch.response_mask.copy()
            mask[0] *= np.nan
            batch = replace(batch, response_mask=mask)
        return accumulate(self, batch, objective, counts, seed=seed)

    monkeypatch.setattr(MlxPolicy, "accumulate", spoiled)


def test_a_bad_update_is_skipped_and_its_row_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, range(1, 2))
    run = support.new_run(tmp_path, "simpo")
    assert support.engine(run) == 0
    state = run.state()
    assert [step.skipped for step in state.steps] == [False, True, False, False]
    assert state.steps[1].loss is None
    assert state.steps[2].loss is not None
    (alert,) = [a for a in state.alerts if a.code == "non-finite"]
    assert alert.step == 2
    assert len(alert.rows) == 1
    assert "train.jsonl:" in alert.rows[0]
    assert all(np.isfinite(v).all() for v in load_file(run.adapter / "adapters.safetensors").values())


def test_too_many_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, range(2, 100))
    run = support.new_run(tmp_path, "simpo", train__steps=10, guard__nonfinite_limit=3)
    assert support.engine(run) == 5
    state = run.state()
    assert state.status == "failed"
    assert isinstance(state.end, RunFailed)
    assert state.end.kind == "diverged"
    assert state.end.exit_code == 5
    assert [step.skipped for step in state.steps] == [False, False, True, True, True]
    latest = run.checkpoints().latest()
    assert latest is not None
    assert all(np.isfinite(v).all() for v in load_file(latest / "adapters.safetensors").values())


def test_a_zero_gradient_is_noticed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulate = MlxPolicy.accumulate

    def dead(
        self: MlxPolicy, batch: Batch, objective: Objective, counts: Mapping[str, float], *, seed: int
    ) -> Scores:
        scores = accumulate(self, batch, objective, counts, seed=seed)
        assert self._gradient is not None
        self._gradient = {name: value * 0 for name, value in self._gradient.items()}
        return scores

    monkeypatch.setattr(MlxPolicy, "accumulate", dead)
    run = support.new_run(tmp_path, "orpo")
    assert support.engine(run) == 1
    assert isinstance(run.state().end, RunFailed)
    assert "exactly zero" in run.state().end.message
