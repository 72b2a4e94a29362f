"""What a group of completions costs, against the same number decoded one by one with mlx-lm's own loop.

    python -m tests.bench.rollouts             writes tests/bench/results/rollouts.json
    python -m tests.bench.rollouts --quick     the first case once with 16 tokens, printed only

A model of random weights in the shape that the peers are timed with; prompts of 60 tokens, temperature 1, no
stop tokens, so both sides do the same work. The two take turns in one process, so that whatever else the
machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import mlx_align.backends.mlx  # noqa: F401  (loads OpenBLAS before mlx)

import mlx.core as mx  # isort: skip
import mlx.nn as nn
from mlx_lm.generate import generate_step
from mlx_lm.models import qwen3
from mlx_lm.sample_utils import make_sampler

from mlx_align.backends.base import Sampling
from mlx_align.backends.completions import Asked
from mlx_align.backends.mlx.generation import generate
from tests.bench.provenance import write

SHAPE: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 512,
    "num_hidden_layers": 8,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
}
PROMPT_TOKENS, TOKENS, REPEATS = 60, 64, 5
CASES = ((1, 8), (2, 4))
"""Prompts and samples of each; the first is what the promise is about."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="What a group of completions costs.")
    parser.add_argument("--quick", action="store_true", help="the first case once, printed only")
    quick = parser.parse_args(argv).quick
    cases, tokens, repeats = (CASES[:1], 16, 1) if quick else (CASES, TOKENS, REPEATS)
    mx.set_default_device(mx.cpu)
    model = random_model()
    result = {
        "what": "seconds for the completions of a rollout: ours, and mlx-lm's generate_step once for each",
        "model": SHAPE,
        "prompt_tokens": PROMPT_TOKENS,
        "tokens": tokens,
        "cases": [measured(model, prompts, samples, tokens, repeats) for prompts, samples in cases],
    }
    print(json.dumps(result, indent=2) if quick else write("rollouts.json", result))


def random_model() -> nn.Module:
    """The model, on the CPU."""
    mx.random.seed(0)
    model = qwen3.Model(qwen3.ModelArgs.from_dict(SHAPE))
    model.eval()
    mx.eval(model.parameters())
    return model


def measured(model: nn.Module, prompts: int, samples: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Both ways in turn, after one short round each that is not counted."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, SHAPE["vocab_size"], (prompts, PROMPT_TOKENS)).tolist()
    side_by_side(model, ids, samples, 2)
    one_by_one(model, ids[:1], 1, 2)
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(seconds(lambda: side_by_side(model, ids, samples, tokens)))
        theirs.append(seconds(lambda: one_by_one(model, ids, samples, tokens)))
    return {
        "prompts": prompts,
        "samples": samples,
        "side_by_side_s": [round(value, 3) for value in ours],
        "one_by_one_s": [round(value, 3) for value in theirs],
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 3),
    }


def side_by_side(model: nn.Module, prompts: list[list[int]], samples: int, tokens: int) -> None:
    """Our rollout."""
    asked = Asked(prompts, Sampling(max_tokens=tokens, temperature=1.0), [], samples, None, 0)
    groups = generate(model, asked, together=True)
    assert all(len(one.token_ids) == tokens for group in groups for one in group)


def one_by_one(model: nn.Module, prompts: list[list[int]], samples: int, tokens: int) -> None:
    """The loop under mlx_lm.generate(), for each sample anew."""
    sampler = make_sampler(temp=1.0)
    for prompt in prompts:
        for _ in range(samples):
            steps = generate_step(mx.array(prompt), model, max_tokens=tokens, sampler=sampler)
            assert len([token for token, _ in steps]) == tokens


def seconds(work: Callable[[], None]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
