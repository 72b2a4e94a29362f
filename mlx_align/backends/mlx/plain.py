"""Whether mlx-lm by itself, as other programs call it, reads a model's rotation as it is read here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import load_model

from mlx_align.rope_names import older_names_of


def reads_alike(folder: Path) -> bool:
    """Build a model with and without what is added to its configuration here, and compare the two.

    No weight is read. What turns positions are numbers in modules, or arrays that are no weights.

    Args:
        folder: the model's.

    Returns:
        False if they differ, or if mlx-lm can build it only with what is added.
    """
    older = older_names_of(folder)
    return not older or _constants(folder, older) == _constants(folder, {})


def _constants(folder: Path, more: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a model's modules hold beside weights, by name; None if mlx-lm cannot build it."""
    try:
        model, _ = load_model(folder, lazy=True, model_config=dict(more))
    except Exception:  # whatever an architecture makes of what it misses: it is not read so
        return None
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in (*vars(module).items(), *module.items()):
            if isinstance(value, int | float | str):
                found[f"{path}.{name}"] = value
            elif isinstance(value, mx.array) and name.startswith("_"):  # else it is a weight
                found[f"{path}.{name}"] = value.tolist()
    return found
