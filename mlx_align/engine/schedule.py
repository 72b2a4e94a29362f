"""The learning rate at each step: a linear warmup, then constant, linear or cosine."""

from __future__ import annotations

import math

from mlx_align.config import OptimConfig


def learning_rate(step: int, total: int, optim: OptimConfig) -> float:
    """The rate of update `step` (counted from 0) out of `total`.

    The warmup rises linearly so that its last step has the full rate and its first is already above zero:
    an update with rate 0 would be wasted. For the same reason the last update is one step short of the end of
    the decay, `optim.min_lr * optim.lr`.
    """
    warmup = round(optim.warmup * total)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    match optim.schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = 1 - progress
        case "cosine":
            share = 0.5 * (1 + math.cos(math.pi * progress))
    return optim.lr * (optim.min_lr + (1 - optim.min_lr) * share)
