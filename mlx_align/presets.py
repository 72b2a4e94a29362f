"""Sets of values to start from, by name: `--preset`."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # A first look: does this data teach this model anything?
    "quick": {
        "train.steps": 120,
        "eval.every": 40,
        "eval.rows": 64,
        "data.max_length": 1024,
    },
    # The defaults of the method and of the catalog, by name.
    "balanced": {},
    # Three passes with a larger adapter; evaluated often, and the best evaluation is kept.
    "thorough": {
        "train.epochs": 3.0,
        "eval.every": 50,
        "eval.rows": 512,
        "adapter.rank": 32,
        "data.max_length": 4096,
        "eval.patience": 6,
    },
    # Small groups of short answers: what a Mac with little memory samples and trains in reasonable time.
    # TRL's own defaults are groups of 8 and 256 tokens.
    "small-mac": {
        "method.group_size": 6,
        "train.batch_size": 2,
        "sampling.max_tokens": 256,
    },
    # DeepSeek-R1's own numbers (arXiv:2501.12948, section 2.2), made for training all weights: groups of 16,
    # 32 questions a step, a KL term of 0.001, a clip that hardly ever holds, temperature 1. Its answers may
    # have 32,768 tokens.
    "r1": {
        "method.group_size": 16,
        "method.beta": 0.001,
        "method.loss_type": "grpo",
        "method.epsilon": 10.0,
        "optim.lr": 3e-6,
        "optim.schedule": "constant",
        "train.batch_size": 2,
        "train.accumulate": 16,
        "sampling.temperature": 1.0,
        "sampling.max_tokens": 1024,
        "data.max_length": 2048,
    },
}
PRESET_METHODS = {"small-mac": "grpo", "r1": "grpo"}
"""Presets that speak of one method only."""


def presets_for(method: str) -> list[str]:
    """The presets that suit a method."""
    return [name for name in PRESETS if PRESET_METHODS.get(name, method) == method]
