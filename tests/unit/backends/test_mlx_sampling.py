"""From logits to tokens on MLX, against the distribution as float64 numpy computes it."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_align.backends.mlx  # noqa: F401  (loads OpenBLAS before mlx)

import mlx.core as mx  # isort: skip
from mlx_align.backends.base import Sampling
from mlx_align.backends.mlx.sampling import Sampler, drawn, filtered, penalised
from tests.sampling_oracle import Floats, assert_drawn_from, distribution, softmax

DRAWS = 20_000


@pytest.fixture(autouse=True)
def _on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


def logits_of(size: int, spread: float = 2.0, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, spread, size)


def draws_from(logits: Floats) -> list[int]:
    uniforms = np.random.default_rng(1).random(DRAWS, np.float32)
    rows = mx.broadcast_to(mx.array(logits.astype(np.float32)), (DRAWS, len(logits)))
    return [int(token) for token in drawn(rows, mx.array(uniforms)).tolist()]


@pytest.mark.parametrize("size", [2, 7, 256, 600])
def test_tokens_are_drawn_by_their_probability(size: int) -> None:
    """Vocabularies within one block, of exactly one, and over several."""
    logits = logits_of(size, spread=1.0)
    assert_drawn_from(softmax(logits), draws_from(logits))


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = logits_of(700)
    logits[:300] = logits[301:699] = -np.inf
    logits[[300, 699]] = 0.0
    assert set(draws_from(logits)) == {300, 699}


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24, 1.0])
def test_the_ends_of_the_distribution(uniform: float) -> None:
    """At 1 nothing is passed any more: still a token that may be drawn."""
    logits = np.full((1, 1000), -np.inf, np.float32)
    logits[0, [3, 511, 998]] = 0.0, 1.0, 0.5
    token = drawn(mx.array(logits), mx.array([uniform], mx.float32)).item()
    assert token in ({3} if uniform == 0 else {511, 998})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 1},
        {"top_k": 5},
        {"top_k": 5000},
        {"top_p": 0.6, "temperature": 3.0},
        {"top_p": 1e-9},
        {"min_p": 0.1, "temperature": 2.0},
        {"top_p": 0.9, "top_k": 12, "min_p": 0.02, "temperature": 1.5},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 1.3, "top_p": 0.8, "top_k": 9},
    ],
)
def test_filters_temperature_and_penalty(options: dict[str, float]) -> None:
    sampling = Sampling(max_tokens=1, **{"temperature": 1.0, **options})
    logits, seen = logits_of(300), (4, 9, 9, 77)
    row = mx.array(logits[None].astype(np.float32))
    mask = mx.array(np.isin(np.arange(300), seen)[None])
    kept = filtered(penalised(row, mask, sampling.repetition_penalty), sampling) / sampling.temperature
    got = softmax(np.array(kept[0], np.float64))
    np.testing.assert_allclose(got, distribution(logits, sampling, seen), rtol=1e-5, atol=1e-9)


def test_the_sampler_counts_prompt_and_completion_as_seen() -> None:
    sampling = Sampling(max_tokens=3, repetition_penalty=1e6)
    sampler = Sampler(sampling, [[0, 1], [0, 2]], np.zeros((2, 3), np.float32))
    logits = mx.array([[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]] * 2)
    tokens, said = mx.array([1, 2]), []
    for position in range(3):
        tokens = sampler(tokens, logits, position)
        said.append(tokens.tolist())
    assert said == [[2, 1], [3, 3], [4, 4]]


def test_rows_that_stay_keep_their_own_numbers() -> None:
    uniforms = np.array([[0.0, 0.1], [0.0, 0.9], [0.0, 0.1]], np.float32)
    sampler = Sampler(Sampling(max_tokens=2, temperature=1.0), [[0]] * 3, uniforms)
    even = mx.zeros((3, 2))
    assert sampler(mx.array([0, 0, 0]), even, 0).tolist() == [0, 0, 0]
    sampler.take(mx.array([1, 2]))
    assert sampler(mx.array([0, 0]), even[:2], 1).tolist() == [1, 0]


def test_half_precision_logits_are_read_in_float32() -> None:
    """In bfloat16 the sum of 2,000 equal weights would stop growing."""
    rows = mx.zeros((2, 2000), mx.bfloat16)
    uniforms = np.array([[0.2], [0.9]], np.float32)
    sampler = Sampler(Sampling(max_tokens=1, temperature=1.0), [[0]] * 2, uniforms)
    assert sampler(mx.array([0, 0]), rows, 0).tolist() == [400, 1800]
