"""A run has few shapes, and where MLX compiles, one trace for each and one for the update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.batch import Batch
from mlx_align.data.shapes import PASS_SHAPES, TRAIN_SHAPES
from mlx_align.events import Step
from mlx_align.runs import EventReader
from tests import support

MORE = {"train__steps": 6, "eval__rows": 6, "eval__every": 3, "backend__compile": "on"}
Shapes = dict[str, set[tuple[Any, ...]]]


def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[Shapes, list[Batch]]:
    """What a run is about to read: the shapes by the policy's method, and the batches it trains on."""
    seen: Shapes = {"accumulate": set(), "logps": set(), "evaluate": set()}
    trained: list[Batch] = []

    def watch(name: str) -> None:
        plain = getattr(MlxPolicy, name)

        def noting(self: MlxPolicy, batch: Batch, *arguments: Any, **options: Any) -> Any:
            seen[name].add((batch.prompt_ids.shape, batch.branch_ids.shape, batch.scored.shape))
            trained.extend([batch] if name == "accumulate" else [])
            return plain(self, batch, *arguments, **options)

        monkeypatch.setattr(MlxPolicy, name, noting)

    for name in seen:
        watch(name)
    return seen, trained


def test_a_dpo_run_makes_one_trace_for_each_of_its_shapes(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference, training and evaluation: the held-out rows are read by two of them, in the same shapes."""
    seen, trained = watched(monkeypatch)
    run = support.new_run(tmp_path / "runs", "dpo", **{**brief, **MORE})
    assert support.engine(run) == 0
    memory = run.state().memory
    assert memory is not None
    assert 1 < len(seen["accumulate"]) <= TRAIN_SHAPES
    assert 1 < len(seen["evaluate"]) <= PASS_SHAPES
    assert seen["evaluate"] <= seen["logps"]
    assert len(seen["logps"]) <= 2 * PASS_SHAPES
    assert memory.traces == len(seen["accumulate"]) + len(seen["logps"]) + 1
    steps = [event for event in EventReader(run.events).read() if isinstance(event, Step)]
    assert sum(step.padded for step in steps) == sum(batch.padded() for batch in trained)
    assert sum(step.tokens for step in steps) == sum(batch.tokens() for batch in trained)


def test_so_does_an_orpo_run_that_scores_prompts(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the reference, which is there for the divergence, leaves them out."""
    seen, trained = watched(monkeypatch)
    changes = {**brief, **MORE, "method__nll": "prompt+response"}
    run = support.new_run(tmp_path / "runs", "orpo", **changes)
    assert support.engine(run) == 0
    memory = run.state().memory
    assert memory is not None
    assert 1 < len(seen["accumulate"]) <= TRAIN_SHAPES
    assert all(0 < len(seen[name]) <= PASS_SHAPES for name in ("logps", "evaluate"))
    assert memory.traces == sum(map(len, seen.values())) + 1
    assert {batch.prompt_mask is None for batch in trained} == {False}
