"""A group that is read a few branches at a time has the gradient of the whole group."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlx_align.backends.base import Objective, Policy, Scores, State
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig
from mlx_align.data import Example, collate
from tests import support

ROWS, GROUP = 3, 5
LIMITS = {"mlx": 1e-5, "torch": 5e-5}
"""Torch's own products differ more between widths, with and without pieces."""
LOSSES: list[dict[str, Any]] = [
    {"loss_type": "grpo"},
    {"loss_type": "dapo", "beta": 0.05, "delta": 2.0},
    {"loss_type": "gspo", "epsilon": 0.1},
]


def batch() -> Batch:
    """Groups of different lengths, sampled by a policy and compared with a reference somewhat apart."""
    rng = np.random.default_rng(0)
    rows = []
    for row in range(ROWS):
        ids = [tuple(rng.integers(10, 200, rng.integers(2, 12)).tolist()) for _ in range(GROUP + 1)]
        rows.append(Example(f"row:{row}", ids[0], tuple(ids[1:]), "", "", ("",) * GROUP))
    made = collate(rows)
    logps = support.policy().logps(made, temperature=0.8)
    near = [(logps + rng.normal(0, 0.2, logps.shape)).astype(np.float32) * made.branch_mask for _ in range(2)]
    advantages = rng.normal(size=len(logps)).astype(np.float32)
    return replace(made, advantages=advantages, old_logps=near[0], ref_logps=near[1])


def gradient(policy: Policy, rows: Batch, objective: Objective) -> tuple[State, Scores]:
    counts = objective.method.counts(rows, objective.hp)
    scores = policy.accumulate(rows, objective, counts, seed=3)
    state = {name: x for name, x in policy.training_state().items() if name.startswith("gradient.")}
    policy.discard()
    return state, scores


@pytest.mark.parametrize("hp", LOSSES, ids=lambda hp: hp["loss_type"])
@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_pieces_equal_the_whole_group(backend: str, hp: dict[str, Any]) -> None:
    policy, rows = support.policy(backend=backend), batch()
    objective = replace(support.objective("grpo", group_size=GROUP, **hp), temperature=0.8)
    expected, whole = gradient(policy, rows, objective)
    assert all(np.abs(value).max() > 0 for value in expected.values())
    for at_once in (1, 2, 4, GROUP):
        got, scores = gradient(policy, rows, replace(objective, branches_at_once=at_once))
        assert scores.sums == pytest.approx(whole.sums, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(scores.logps, whole.logps, atol=2e-5)
        for name, values in whole.metrics.items():
            np.testing.assert_allclose(scores.metrics[name], values, rtol=1e-4, atol=1e-5)
        for name, value in expected.items():
            error = np.abs(got[name] - value).max() / np.abs(value).max()
            assert error < LIMITS[backend], f"{at_once} at once: {name} differs by {error:.1e}"


def test_what_comes_back_through_the_prompt_is_not_forgotten() -> None:
    """The twin of the test above: without the way back through the prompts the gradient is another one."""
    policy, rows = support.policy(), batch()
    objective = replace(support.objective("grpo", group_size=GROUP), branches_at_once=2)
    expected, _ = gradient(policy, rows, objective)
    functions: Any = policy._functions  # type: ignore[attr-defined]
    through = functions.through_prefixes
    functions.through_prefixes = lambda *given: {k: v * 0 for k, v in through(*given).items()}
    got, _ = gradient(policy, rows, objective)
    assert any(np.abs(got[k] - v).max() > 0.01 * np.abs(v).max() for k, v in expected.items())


def test_dropout_is_the_same_on_the_way_to_the_keys_and_back() -> None:
    """With dropout, the gradient is the derivative of the loss that the same keys give: by differences."""
    policy = support.policy(AdapterConfig(rank=4, dropout=0.3))
    rows = batch()
    objective = replace(support.objective("grpo", group_size=GROUP), branches_at_once=2)
    slope, _ = gradient(policy, rows, objective)
    counts = objective.method.counts(rows, objective.hp)
    start, direction = policy.adapter_state(), {k.removeprefix("gradient."): v for k, v in slope.items()}
    squared = sum(float(np.square(v, dtype=np.float64).sum()) for v in direction.values())
    size = 1e-3 / np.sqrt(squared)

    def loss(step: float) -> float:
        policy.load_adapter_state({k: v + np.float32(step) * direction[k] for k, v in start.items()})
        _, scores = gradient(policy, rows, objective)
        return sum(value / counts[term] for term, value in scores.sums.items())

    assert (loss(size) - loss(-size)) / (2 * size) == pytest.approx(squared, rel=0.02)
