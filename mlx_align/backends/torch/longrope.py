"""LongRoPE in transformers: which of a model's two lists of factors is read, and how to have one for all.

transformers asks its configuration at every call how long a short sequence may be, and chooses by the largest
position in the batch. So a list is chosen by another border; what was made of the model's own, its loudness,
stays. Phi MoE keeps the factors for short sequences at any length: there it is the loudness that is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlx_align.backends.positions import Positions
from mlx_align.rope_names import by_length

NAME = "original_max_position_embeddings"
ALL_LONG, ALL_SHORT = 2, 1 << 30
"""Borders that every sequence of three tokens is beyond, or none. transformers divides by their logarithm, so
that 1 will not do."""


def border(model: Any) -> float:
    """Tokens of the longest sequence that is read with the short list; infinite where there is no other."""
    config = _config(model)
    table = getattr(config, "rope_parameters", None) or {}
    if config.model_type == "phimoe":
        two = table.get("short_mscale") != table.get("long_mscale")
    else:
        two = by_length(table)
    return float(table[NAME]) if table.get("rope_type") == "longrope" and two else math.inf


def settle(model: Any, longest: int | None) -> Positions | None:
    """Read everything with the list that a sequence of so many tokens asks for, from now on.

    Args:
        model: transformers' own.
        longest: tokens; None: leave it as it is.

    Returns:
        how it chooses now; None if it has one list at most.
    """
    short = border(model)
    if short == math.inf:
        return None
    long = None if longest is None else longest > short
    if long is not None:
        _set_border(model, ALL_LONG if long else ALL_SHORT)
    return Positions(int(short), long)


@contextmanager
def chosen(model: Any, *, long: bool) -> Iterator[None]:
    """While it is open, everything is read with one list: the long or the short one."""
    short = border(model)
    if short == math.inf:
        yield
        return
    _set_border(model, ALL_LONG if long else ALL_SHORT)
    try:
        yield
    finally:
        _set_border(model, int(short))


def _set_border(model: Any, tokens: int) -> None:
    config = _config(model)
    config.rope_parameters[NAME] = tokens
    if hasattr(config, NAME):  # Phi reads its cache anew where this is passed
        setattr(config, NAME, tokens)


def _config(model: Any) -> Any:
    """What the language model inside goes by."""
    return model.config.get_text_config()
