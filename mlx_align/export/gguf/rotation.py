"""How positions turn queries and keys, in GGUF's words: the base frequency and what stretches it.

What config.json says of it in either of transformers' forms is read by `rope_names.tables`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_align.errors import UsageError
from mlx_align.export.base import Base
from mlx_align.rope_names import tables

LONG = ("longrope", "su")
"""Two names of Phi 3's own stretching: a factor for each frequency, in short texts others than in long."""

PHI3_BORDER = 4096
"""Tokens of the longest text that is short, where a Phi 3 does not say it."""

Scaling = Mapping[str, Any]


def facts(base: Base) -> dict[str, int | float | str | bool]:
    """The keys under "rope.".

    Raises:
        UsageError: llama.cpp does not stretch as the model wants it in this architecture.
    """
    scaling = _scaling(base)
    kind = _kind(scaling)
    found: dict[str, int | float | str | bool] = {
        "rope.dimension_count": dimensions(base),
        "rope.freq_base": _theta(base),
    }
    if kind == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    elif kind == "yarn":
        found |= _yarn(base, scaling)
    elif kind in LONG and base.architecture == "phi3":
        found |= _longrope(base)
    elif kind not in ("default", "llama3"):
        raise UsageError(
            f"llama.cpp does not stretch positions by '{kind}' in this architecture",
            where="config.json, key 'rope_scaling'",
        )
    return found


def factors(base: Base) -> dict[str, NDArray[np.float32]]:
    """Tensors of what frequencies are divided by, (dimensions / 2,) each, by their names in GGUF."""
    scaling = _scaling(base)
    kind = _kind(scaling)
    if kind == "llama3":
        return {"rope_freqs.weight": _llama3(dimensions(base), _theta(base), scaling)}
    if kind in LONG:
        lists = {"long": scaling["long_factor"], "short": scaling["short_factor"]}
        return {f"rope_factors_{name}.weight": np.array(values, np.float32) for name, values in lists.items()}
    return {}


def dimensions(base: Base) -> int:
    """How many of a head's dimensions are turned; the others stay as they are."""
    share = _scaling(base).get("partial_rotary_factor") or base.fact("partial_rotary_factor", 1.0)
    return int(base.head_dim * share)


def windowed_theta(base: Base, default: float) -> float:
    """The base frequency of layers with a window, in an architecture where they have one of their own."""
    _, windowed = tables(_facts(base))
    return float(windowed.get("rope_theta") or base.fact("rope_local_base_freq", default))


def _llama3(size: int, theta: float, scaling: Scaling) -> NDArray[np.float32]:
    """Llama 3.1's factors: all of it for slow frequencies, 1 for fast ones, something between for others."""
    factor = float(scaling["factor"])
    low, high = float(scaling.get("low_freq_factor", 1.0)), float(scaling.get("high_freq_factor", 4.0))
    context = float(scaling.get("original_max_position_embeddings", 8192))
    lengths = 2 * math.pi * theta ** (np.arange(0, size, 2) / size)
    smooth = (context / lengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    stretched = np.where(lengths > context / low, factor, np.where(lengths < context / high, 1.0, between))
    return stretched.astype(np.float32)


def _yarn(base: Base, scaling: Scaling) -> dict[str, int | float | str | bool]:
    own = [key for key in ("mscale", "mscale_all_dim", "attention_factor") if scaling.get(key) is not None]
    if own:
        raise UsageError(
            f"a yarn with its own '{own[0]}' was not seen to agree in llama.cpp",
            where="config.json, key 'rope_scaling'",
        )
    found: dict[str, int | float | str | bool] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(scaling["factor"]),
        "rope.scaling.original_context_length": int(
            scaling.get("original_max_position_embeddings") or base.fact("max_position_embeddings")
        ),
    }
    for key in ("beta_fast", "beta_slow"):
        if scaling.get(key) is not None:
            found[f"rope.scaling.yarn_{key}"] = float(scaling[key])
    return found


def _longrope(base: Base) -> dict[str, int | float | str | bool]:
    # Beside the table: what stands in it is not read in this architecture, by transformers nor by mlx-lm.
    context = base.fact("original_max_position_embeddings", PHI3_BORDER)
    if not isinstance(context, int):
        raise UsageError(
            f"{context!r} is no number of tokens",
            where="config.json, key 'original_max_position_embeddings'",
        )
    ratio = int(base.fact("max_position_embeddings")) / context
    loudness = math.sqrt(1 + math.log(ratio) / math.log(context)) if ratio > 1 else 1.0
    return {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": context,
        "rope.scaling.attn_factor": loudness,
    }


def _facts(base: Base) -> dict[str, Any]:
    """config.json; what a multimodal model's does not say is its language model's."""
    own = {key: value for key, value in base.config.items() if value is not None}
    return {**(base.config.get("text_config") or {}), **own}


def _scaling(base: Base) -> Scaling:
    """The whole table; where layers differ, that of the layers without a window."""
    whole, _ = tables(_facts(base))
    return whole


def _kind(scaling: Scaling) -> str:
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def _theta(base: Base) -> float:
    default = 1e6 if base.architecture == "gemma3_text" else 1e4
    return float(_scaling(base).get("rope_theta") or base.fact("rope_theta", default))
