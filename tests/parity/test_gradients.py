"""Each method's loss and full adapter gradient are the same on both backends.

The losses alone, against the float64 oracle, are in tests/unit/methods/test_losses.py, in both frameworks'
operations. Here the whole path counts: forward, loss, backward through the adapter, accumulation.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from mlx_align.backends.base import Policy, State
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig
from mlx_align.data import collate
from tests import support

VALUE, GRADIENT = 1e-5, 1e-4
SPREAD = 0.1
"""Far enough from the trained model that no loss is near 0, where float32 has no relative precision."""

CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "sft": ("sft", {}, "lora"),
    "sft dora": ("sft", {}, "dora"),
    "orpo": ("orpo", {}, "lora"),
    "orpo dora": ("orpo", {}, "dora"),
    "orpo like TRL": ("orpo", {"nll": "prompt+response"}, "lora"),
    "dpo": ("dpo", {}, "lora"),
    "dpo smoothed": ("dpo", {"label_smoothing": 0.2}, "lora"),
    "dpo ipo": ("dpo", {"loss_type": "ipo"}, "lora"),
    "dpo hinge": ("dpo", {"loss_type": "hinge"}, "lora"),
    "simpo": ("simpo", {}, "lora"),
}


@cache
def policy(backend: str, kind: str) -> Policy:
    return support.policy(AdapterConfig(type=kind, rank=4), backend=backend, spread=SPREAD)


def batches(name: str, hp: dict[str, Any]) -> list[Batch]:
    """Two micro-batches of unequal size, with a reference that is not the policy."""
    objective = support.objective(name, **hp)
    rows = support.examples(objective.method.rows)
    scores_prompt = objective.method.scores_prompt(objective.hp)
    made = [collate(rows[:3], scores_prompt=scores_prompt), collate(rows[3:8], scores_prompt=scores_prompt)]
    noise = np.random.default_rng(5)
    return [
        replace(batch, ref_logps=noise.normal(-3, 0.3, batch.branch_ids.shape).astype(np.float32))
        for batch in made
    ]


def loss_and_gradient(
    policy: Policy, name: str, hp: dict[str, Any], window: list[Batch]
) -> tuple[float, State]:
    objective = support.objective(name, **hp)
    counts: dict[str, float] = {}
    for batch in window:
        for term, count in objective.method.counts(batch, objective.hp).items():
            counts[term] = counts.get(term, 0.0) + count
    loss = 0.0
    for batch in window:
        scores = policy.accumulate(batch, objective, counts, seed=0)
        loss += sum(value / counts[term] for term, value in scores.sums.items())
    state = {k: v for k, v in policy.training_state().items() if k.startswith("gradient.")}
    policy.discard()
    return loss, state


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient(case: str) -> None:
    name, hp, kind = CASES[case]
    window = batches(name, hp)
    value, gradient = loss_and_gradient(policy("mlx", kind), name, hp, window)
    other, torch = loss_and_gradient(policy("torch", kind), name, hp, window)
    assert gradient.keys() == torch.keys()
    errors = {
        key: float(np.linalg.norm(torch[key] - grad) / np.linalg.norm(grad)) for key, grad in gradient.items()
    }
    print(f"loss {value:.4f} differs by {abs(other / value - 1):.1e}, gradient {max(errors.values()):.1e}")
    assert value > 0.05
    assert other == pytest.approx(value, rel=VALUE)
    assert all(np.abs(grad).max() > 0 for grad in gradient.values())
    worst = max(errors, key=lambda key: errors[key])
    assert errors[worst] < GRADIENT, worst


@pytest.mark.parametrize("name", ["sft", "orpo"])
def test_batching_and_padding_do_not_matter_on_torch(name: str) -> None:
    """As tests/property/test_invariance.py has it for MLX."""
    rows = support.examples(support.objective(name).method.rows)[:6]
    ways = [[rows], [rows[:1], rows[1:]], [rows[::-1][:4], rows[::-1][4:]]]
    window = [[collate(group, pad_to=pad) for group in way] for way in ways for pad in (1, 64)]
    (value, gradient), *others = [loss_and_gradient(policy("torch", "lora"), name, {}, w) for w in window]
    for other, state in others:
        assert other == pytest.approx(value, rel=1e-5)
        for key, grad in gradient.items():
            assert np.abs(state[key] - grad).max() < 2e-5 * np.abs(grad).max(), key


def test_evaluation_is_the_same_and_has_no_dropout() -> None:
    objective = support.objective("simpo")
    (batch, _) = batches("simpo", {})
    results = []
    for backend in ("mlx", "torch"):
        noisy = support.policy(AdapterConfig(rank=4, dropout=0.5), backend=backend, spread=SPREAD)
        noisy.accumulate(batch, objective, {"loss": 1.0}, seed=0)  # dropout is on here, and off again below
        results.append(noisy.evaluate(batch, objective))
    assert results[1].sums["loss"] == pytest.approx(results[0].sums["loss"], rel=VALUE)
    assert results[0].metrics.keys() == results[1].metrics.keys()
    for name, values in results[0].metrics.items():
        assert results[1].metrics[name].dtype == np.float32
        np.testing.assert_allclose(results[1].metrics[name], values, rtol=1e-4, atol=1e-5)


def test_dropout_is_seeded_by_the_position() -> None:
    (batch, _) = batches("sft", {})
    made = support.policy(AdapterConfig(rank=4, dropout=0.3), backend="torch", spread=SPREAD)

    def gradient(seed: int) -> State:
        made.accumulate(batch, support.objective("sft"), {"nll": 10.0}, seed=seed)
        state = {k: v for k, v in made.training_state().items() if k.startswith("gradient.")}
        made.discard()
        return state

    first, again, other = gradient(3), gradient(3), gradient(4)
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)
