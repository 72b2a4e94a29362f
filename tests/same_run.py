"""Two runs that must have come to the same, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from safetensors.numpy import load_file

from mlx_align.runs import RunDirectory


def arrays(run: RunDirectory) -> dict[str, np.ndarray]:
    """Adapter and optimiser of the newest checkpoint, and the exported adapter."""
    latest = run.checkpoints().latest()
    assert latest is not None
    files = (
        latest / "adapters.safetensors",
        latest / "training.safetensors",
        run.adapter / "adapters.safetensors",
    )
    return {f"{path.name} {name}": value for path in files for name, value in load_file(path).items()}


def measured(run: RunDirectory) -> list[dict[str, Any]]:
    """Every step, evaluation and sample, without what may differ: line numbers, attempts and times."""
    state = run.state()
    untimed = {"v", "seq", "attempt", "t", "seconds"}
    return [event.model_dump(exclude=untimed) for event in (*state.steps, *state.evals, *state.samples)]


def assert_same(run: RunDirectory, other: RunDirectory) -> None:
    """Both runs have finished, and agree in all that was measured and all that was trained."""
    for each in (run, other):
        assert each.state().status == "finished", (
            each.log.read_text() if each.log.exists() else each.state().end
        )
    assert measured(run) == measured(other)
    got, want = arrays(run), arrays(other)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
