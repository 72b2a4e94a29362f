"""A run as training leaves it, without the training: prepared as ever, its adapter drawn at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_align.config import AdapterConfig
from mlx_align.runs import RunDirectory
from mlx_align.runs.chosen import model_of
from tests import support


def trained_run(root: Path, *, spread: float = 0.1, **settings: Any) -> RunDirectory:
    """A finished run with one checkpoint, of step 4; `settings` are those of `support.new_run`."""
    run = support.new_run(root, **settings)
    config = run.config().adapter
    policy = support.policy(
        AdapterConfig(rank=config.rank, type=config.type, layers=config.layers, modules=config.modules),
        model=model_of(run),
        spread=spread,
    )
    checkpoint = run.path / "checkpoints" / "step-000004"
    for folder in (run.adapter, checkpoint):
        folder.mkdir(parents=True)
        policy.save_adapter(folder)
    (checkpoint / "trainer.json").write_text(json.dumps({"best_checkpoint": checkpoint.name}))
    return run
