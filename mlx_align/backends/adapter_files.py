"""An adapter on disk, in mlx-lm's own format, whichever backend trained it.

adapters.safetensors   `<module path>.lora_a` (in, r) and `.lora_b` (r, out), float32; DoRA's `.m` (out,)
adapter_config.json    fine_tune_type, num_layers, lora_parameters {rank, scale, dropout, keys}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mlx_align.backends.base import State
from mlx_align.config import AdapterConfig
from mlx_align.errors import UsageError

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"


def describe(config: AdapterConfig, layers: int, keys: list[str]) -> dict[str, Any]:
    """The contents of adapter_config.json for a fresh adapter on the last `layers` layers."""
    parameters = {"rank": config.rank, "scale": config.scale, "dropout": config.dropout, "keys": keys}
    return {"fine_tune_type": config.type, "num_layers": layers, "lora_parameters": parameters}


def check_shapes(shapes: Mapping[str, tuple[int, ...]], state: State) -> None:
    """See that a saved state fits an adapter.

    Args:
        shapes: name -> shape of every array of the adapter.
        state: what is to be loaded into it.

    Raises:
        UsageError: names or shapes differ.
    """
    wrong = sorted(
        name for name in shapes.keys() | state.keys()
        if name not in state or name not in shapes or state[name].shape != shapes[name]
    )  # fmt: skip
    if wrong:
        raise UsageError(
            f"the saved adapter has another shape than this one: {len(wrong)} arrays differ",
            where=wrong[0],
            hint="Use the configuration the adapter was trained with.",
        )


def write(folder: Path, state: State, facts: dict[str, Any]) -> None:
    """Write both files into an existing folder."""
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """The contents of adapter_config.json.

    Raises:
        ValueError: it is not JSON, or describes something that is not a LoRA or DoRA adapter.
        OSError: it cannot be read.
    """
    facts: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if facts.get("fine_tune_type", "lora") not in ("lora", "dora"):
        raise ValueError(f"fine_tune_type '{facts['fine_tune_type']}' is not an adapter")
    return facts
