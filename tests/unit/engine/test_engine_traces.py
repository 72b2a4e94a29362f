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


def test_a_dpo_run_makes_one_trace_for_each_of_its_shapes(
    tmp_path: Path, brief: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference, training and evaluation: the held-out rows are read by two of them, in the same shapes."""
    seen: dict[str, set[tuple[Any, ...]]] = {"accumulate": set(), "logps": set(), "evaluate": set()}
    trained = []

    def watch(name: str) -> None:
        plain = getattr(MlxPolicy, name)

        def noting(self: MlxPolicy, batch: Batch, *arguments: Any, **options: Any) -> Any:
            seen[name].add((batch.prompt_ids.shape, batch.branch_ids.shape, batch.scored.shape))
            trained.extend([batch] if name == "accumulate" else [])
            return plain(self, batch, *arguments, **options)

        monkeypatch.setattr(MlxPolicy, name, noting)

    for name in seen:
        watch(name)
    changes = {"train__steps": 6, "eval__rows": 6, "eval__every": 3, "backend__compile": "on"}
    run = support.new_run(tmp_path / "runs", "dpo", **{**brief, **changes})
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
