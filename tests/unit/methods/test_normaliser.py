"""The normaliser of the log-probabilities keeps the digits that a plain logsumexp loses."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_align.backends.mlx.forward import log_normaliser


def shifted(logits: np.ndarray) -> np.ndarray:
    return logits - logits.max(axis=-1, keepdims=True)


@pytest.mark.parametrize("vocabulary", [3, 64, 1000, 1024, 32001])
def test_value_and_gradient_equal_float64(vocabulary: int) -> None:
    scored = shifted(np.random.default_rng(0).normal(0, 5, (16, vocabulary)).astype(np.float32))
    exact = np.exp(scored.astype(np.float64))
    want = np.log(exact.sum(-1))
    got = np.array(log_normaliser(mx.array(scored)))
    np.testing.assert_allclose(got, want, rtol=2e-6)
    assert abs((got - want).mean()) < 2e-7, "biased in one direction"
    gradient = np.array(mx.grad(lambda x: log_normaliser(x).sum())(mx.array(scored)))
    np.testing.assert_allclose(gradient, exact / exact.sum(-1, keepdims=True), rtol=5e-6, atol=1e-12)


def test_an_almost_certain_token_keeps_its_digits() -> None:
    logits = np.full((1, 1024), -15, np.float32)
    logits[0, 7] = 0
    assert log_normaliser(mx.array(logits)).item() == pytest.approx(np.log1p(1023 * np.exp(-15.0)), rel=2e-6)


def test_equal_largest_logits() -> None:
    logits = np.zeros((1, 130), np.float32)
    assert log_normaliser(mx.array(logits)).item() == pytest.approx(np.log(130), rel=1e-6)
    gradient = mx.grad(lambda x: log_normaliser(x).sum())(mx.array(logits))
    np.testing.assert_allclose(np.array(gradient), np.full((1, 130), 1 / 130), rtol=1e-5)
