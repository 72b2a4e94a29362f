"""The training methods, by name. A new one is one file and one line here."""

from __future__ import annotations

from mlx_align.errors import UsageError
from mlx_align.methods import dpo, grpo, orpo, sft, simpo
from mlx_align.methods.base import Hyperparameters, Loss, Method

METHODS: dict[str, Method] = {
    m.name: m for m in (sft.METHOD, orpo.METHOD, dpo.METHOD, simpo.METHOD, grpo.METHOD)
}


def get(name: str) -> Method:
    """The method called `name`.

    Raises:
        UsageError: there is no such method.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method '{name}'", hint=f"Choose one of: {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "Hyperparameters", "Loss", "Method", "get"]
