"""One update: the optimiser beside its paper in double precision, clipping, and refusing bad gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mlx_align.backends.mlx  # noqa: F401  (loads OpenBLAS before mlx)

import mlx.core as mx  # isort: skip
from mlx_align.backends.base import Policy, State
from mlx_align.backends.mlx.optim import build
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig, OptimConfig
from mlx_align.data import collate
from tests import support

SMALL = AdapterConfig(rank=2, modules=("self_attn.q_proj",), layers=2)
ORPO = support.objective("orpo")


def rows() -> Batch:
    return collate(support.examples()[:3])


def accumulate(policy: Policy, batch: Batch) -> None:
    policy.accumulate(batch, ORPO, ORPO.method.counts(rows(), ORPO.hp), seed=0)


def gradient_of(policy: Policy) -> State:
    state = policy.training_state()
    return {k.removeprefix("gradient."): v for k, v in state.items() if k.startswith("gradient.")}


def adam_by_hand(
    w: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float
) -> list[np.ndarray]:
    """Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2."""
    m, v, seen = np.zeros_like(w), np.zeros_like(w), []
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
        w = w - rate * decay * w - rate * m_hat / (np.sqrt(v_hat) + 1e-8)
        seen.append(w)
    return seen


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.0), ("adamw", 0.1), ("adam", 0.0)])
def test_adam_is_the_papers_with_bias_correction(name: str, decay: float) -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4, 3))
    gradients = [rng.normal(size=(4, 3)) * 10.0**-k for k in range(5)]
    rates = [1e-3, 2e-3, 3e-3, 2e-3, 1e-3]
    optimiser = build(OptimConfig(name=name, weight_decay=decay))
    parameters = {"w": mx.array(w.astype(np.float32))}
    optimiser.init(parameters)
    for g, rate, want in zip(gradients, rates, adam_by_hand(w, gradients, rates, decay), strict=True):
        optimiser.learning_rate = rate
        parameters = optimiser.apply_gradients({"w": mx.array(g.astype(np.float32))}, parameters)
        np.testing.assert_allclose(np.array(parameters["w"]), want, rtol=1e-5, atol=1e-6)


def test_the_first_update_of_adam_has_the_size_of_the_rate() -> None:
    """Without bias correction it would be about three times as large."""
    policy = support.policy(SMALL, OptimConfig(max_grad_norm=0.0))
    before = policy.adapter_state()
    accumulate(policy, rows())
    gradient = gradient_of(policy)
    policy.update(1e-3)
    for name, value in policy.adapter_state().items():
        moved = before[name] - value
        sure = np.abs(gradient[name]) > 1e-5
        np.testing.assert_allclose(moved[sure], 1e-3 * np.sign(gradient[name][sure]), rtol=2e-3)


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1e9])
def test_clipping(limit: float) -> None:
    policy = support.policy(SMALL, OptimConfig(max_grad_norm=limit))
    accumulate(policy, rows())
    gradient = gradient_of(policy)
    norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradient.values()))
    update = policy.update(1e-3)
    assert update.applied
    assert update.grad_norm == pytest.approx(norm, rel=1e-5), "the norm before clipping is reported"
    share = min(1.0, limit / norm) if limit else 1.0
    state = policy.training_state()
    for name, g in gradient.items():
        np.testing.assert_allclose(state[f"optimizer.{name}.m"], 0.1 * share * g, rtol=1e-4, atol=1e-12)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    policy = support.policy(SMALL)
    accumulate(policy, rows())
    policy.update(1e-3)
    adapter, training = policy.adapter_state(), policy.training_state()
    bad = rows()
    mask = bad.response_mask.copy()
    mask[0] = np.nan
    accumulate(policy, rows())
    accumulate(policy, replace(bad, response_mask=mask))
    update = policy.update(1e-3)
    assert not update.applied
    assert not np.isfinite(update.grad_norm)
    for before, after in ((adapter, policy.adapter_state()), (training, policy.training_state())):
        assert before.keys() == after.keys(), "the accumulator is cleared and nothing else"
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)
    accumulate(policy, rows())
    assert policy.update(1e-3).applied, "the next update is a good one again"


def test_the_accumulator_adds_and_is_cleared() -> None:
    policy = support.policy(SMALL)
    accumulate(policy, rows())
    once = gradient_of(policy)
    accumulate(policy, rows())
    for name, value in gradient_of(policy).items():
        np.testing.assert_allclose(value, 2 * once[name], rtol=1e-5, atol=1e-9)
    policy.discard()
    assert gradient_of(policy) == {}
    with pytest.raises(RuntimeError, match="accumulate"):
        policy.update(1e-3)


def test_training_state_survives_another_policy() -> None:
    """In the middle of a window, after an update: what a checkpoint holds is all there is."""
    one = support.policy(SMALL)
    accumulate(one, rows())
    one.update(1e-3)
    accumulate(one, rows())
    other = support.policy(SMALL, seed=7)
    other.load_adapter_state(one.adapter_state())
    other.load_training_state(one.training_state())
    for policy in (one, other):
        accumulate(policy, rows())
        policy.update(1e-3)
    for first, second in (
        (one.adapter_state(), other.adapter_state()),
        (one.training_state(), other.training_state()),
    ):
        assert first.keys() == second.keys()
        for name, value in first.items():
            np.testing.assert_array_equal(second[name], value)


def test_dropout_is_seeded_and_only_in_training() -> None:
    config = SMALL.model_copy(update={"dropout": 0.5})
    policy = support.policy(config)
    counts = ORPO.method.counts(rows(), ORPO.hp)

    def trained(seed: int) -> np.ndarray:
        return policy.accumulate(rows(), ORPO, counts, seed=seed).logps

    np.testing.assert_array_equal(trained(1), trained(1))
    assert (trained(1) != trained(2)).any()
    np.testing.assert_array_equal(policy.logps(rows()), support.policy(SMALL).logps(rows()))
    np.testing.assert_array_equal(policy.evaluate(rows(), ORPO).logps, policy.logps(rows()))
