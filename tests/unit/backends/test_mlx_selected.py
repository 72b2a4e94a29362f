"""Log-probabilities of chosen tokens: values and gradients against float64, for every kind of head."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_align.backends.mlx.selected import chunk_positions, selected_logps

N, D, V = 300, 64, 1000


def identity(x: mx.array) -> mx.array:
    return x


def exact(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, and their derivative by the logits, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exps = np.exp(shifted)
    logps = shifted - np.log(exps.sum(-1, keepdims=True))
    rows = np.arange(len(targets))
    slopes = -exps / exps.sum(-1, keepdims=True)
    slopes[rows, targets] = 0
    slopes[rows, targets] = -slopes.sum(-1)  # 1 - p, without subtracting from 1
    return logps[rows, targets], slopes


def heads() -> dict[str, Callable[[mx.array], mx.array]]:
    mx.random.seed(0)
    embedding = nn.Embedding(V, D)
    quantised = nn.QuantizedEmbedding.from_embedding(embedding, 64, 4)
    linear = nn.QuantizedLinear.from_linear(nn.Linear(D, V, bias=False), 64, 4)
    return {
        "tied": embedding.as_linear,
        "quantised tied": quantised.as_linear,
        "dense": nn.Linear(D, V),
        "quantised": linear,
        "soft-capped": lambda x: mx.tanh(linear(x) * 3 / 30) * 30,
        "scaled": lambda x: embedding.as_linear(x) * 0.0625,
    }


@pytest.mark.parametrize("chunk", [1, 64, 300, 4096])
@pytest.mark.parametrize("name", heads())
def test_every_head_in_any_chunks(name: str, chunk: int) -> None:
    head = heads()[name]
    rng = np.random.default_rng(1)
    n = N if chunk > 1 else 9
    features = mx.array(rng.normal(0, 1, (n, D)).astype(np.float32))
    targets = rng.integers(0, V, n)
    weights = mx.array(rng.normal(0, 1, n).astype(np.float32))
    want, _ = exact(np.array(head(features)), targets)

    def plain(features: mx.array) -> mx.array:
        losses = nn.losses.cross_entropy(head(features), mx.array(targets), reduction="none")
        return -(losses * weights).sum()

    def ours(features: mx.array) -> mx.array:
        return (selected_logps(head, features, mx.array(targets), chunk, grad=True) * weights).sum()

    for grad in (True, False):
        got = selected_logps(head, features, mx.array(targets), chunk, grad=grad)
        np.testing.assert_allclose(np.array(got), want, rtol=1e-6, atol=1e-6)
    expected = np.array(mx.grad(plain)(features))
    for gradient in (mx.grad(ours)(features), mx.compile(mx.grad(ours))(features)):
        assert np.abs(np.array(gradient) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("vocabulary", [3, 64, 1000, 1024, 32001])
def test_value_and_gradient_equal_float64_without_bias(vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 5, (64, vocabulary)).astype(np.float32)
    targets = rng.integers(0, vocabulary, 64)
    targets[:32] = logits[:32].argmax(-1)
    want, slopes = exact(logits, targets)
    got = np.array(selected_logps(identity, mx.array(logits), mx.array(targets), 16, grad=True))
    np.testing.assert_allclose(got, want, rtol=3e-6)
    assert abs((got - want).mean()) < 3e-7, "biased in one direction"
    gradient = mx.grad(
        lambda x: selected_logps(identity, x, mx.array(targets), 16, grad=True).sum()
    )(mx.array(logits))  # fmt: skip
    np.testing.assert_allclose(np.array(gradient), slopes, rtol=1e-5, atol=1e-9)


def test_an_almost_certain_token_keeps_its_digits() -> None:
    logits = np.full((1, 1024), -15, np.float32)
    logits[0, 7] = 0
    surely = mx.array([7])
    rest = 1023 * np.exp(-15.0)
    got = selected_logps(identity, mx.array(logits), surely, 8, grad=True).item()
    assert got == pytest.approx(-np.log1p(rest), rel=2e-6)
    slope = mx.grad(lambda x: selected_logps(identity, x, surely, 8, grad=True).sum())(mx.array(logits))
    assert slope[0, 7].item() == pytest.approx(rest / (1 + rest), rel=2e-6)  # 1 - p


def test_equal_largest_logits() -> None:
    logits = mx.zeros((2, 130))
    targets = mx.array([0, 129])
    got = selected_logps(identity, logits, targets, 8, grad=True)
    np.testing.assert_allclose(np.array(got), -np.log(130), rtol=1e-6)
    gradient = mx.grad(lambda x: selected_logps(identity, x, targets, 8, grad=True).sum())(logits)
    want = np.full((2, 130), -1 / 130)
    want[[0, 1], [0, 129]] += 1
    np.testing.assert_allclose(np.array(gradient), want, rtol=1e-5)


def test_the_logits_are_never_all_alive() -> None:
    n, d, v = 1024, 32, 8192
    weight = mx.random.normal((v, d))
    features = mx.random.normal((n, d))
    targets = mx.zeros((n,), mx.int32)
    mx.eval(weight, features, targets)
    peaks = {}
    for chunk in (64, n):
        mx.clear_cache()
        mx.reset_peak_memory()
        base = mx.get_active_memory()
        score = mx.grad(
            lambda x, c=chunk: selected_logps(lambda h: h @ weight.T, x, targets, c, grad=True).sum()
        )
        mx.eval(score(features))
        peaks[chunk] = mx.get_peak_memory() - base
    assert peaks[64] < n * v * 4 < peaks[n]


def test_a_chunk_is_bounded_by_the_vocabulary() -> None:
    assert chunk_positions(16_000) * 16_000 <= 1 << 20
    assert chunk_positions(32_000, 1, 1) * 32_000 <= 1 << 22, "a GPU's"
    assert chunk_positions(1024) % 16 == 0
    assert chunk_positions(152_000) == chunk_positions(10**9) == 64


def test_lanes_share_what_is_least() -> None:
    """Two lanes at the head together have as many logits as one lane alone."""
    assert [chunk_positions(152_000, lanes) for lanes in (1, 2, 3, 4, 16)] == [64, 32, 16, 16, 16]
    assert chunk_positions(16_000, 2) == chunk_positions(16_000)


def test_a_frugal_chunk_is_short_on_a_cpu_only() -> None:
    assert [chunk_positions(152_000, lanes, frugal=True) for lanes in (1, 2, 16)] == [16, 16, 16]
    assert chunk_positions(16_000, 2, frugal=True) == chunk_positions(16_000)
    assert chunk_positions(152_000, 1, 48 << 30, frugal=True) == chunk_positions(152_000, 1, 48 << 30)


def test_a_gpu_takes_longer_chunks_as_far_as_its_memory_lets_it() -> None:
    gib = 1 << 30
    assert [chunk_positions(152_000, 1, n * gib) for n in (5, 11, 24, 48, 80)] == [64, 64, 128, 256, 256]
    assert chunk_positions(32_000, 1, 48 * gib) == 4 * chunk_positions(32_000, 1, 1)
    for vocabulary in (1024, 32_000, 152_000, 262_144):
        chunk = chunk_positions(vocabulary, 1, 48 * gib)
        assert chunk % 16 == 0
        assert 10 * 4 * chunk * vocabulary <= 48 * gib / 32
