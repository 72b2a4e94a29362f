"""How positions turn queries and keys, in the words that mlx-lm reads of a config.json.

transformers 5 writes a table `rope_parameters`, where 4 wrote `rope_theta`, `rope_scaling` and their like
side by side. Most architectures of mlx-lm know the older keys only, and take a default where they are
missing: a Llama of theta 500,000 would be read with 10,000, and nobody told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TABLE = "rope_parameters"
_BESIDE = ("rope_theta", "partial_rotary_factor")
"""Keys of the table that do not belong to what stretches positions."""


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be added to a configuration so that mlx-lm reads its rotation.

    Args:
        config: config.json, of any version.

    Returns:
        top-level keys and their values; nothing that the configuration says itself is among them, but for
        `text_config`, which is then there with what has to be added to it.
    """
    found = _of_one(config)
    text = config.get("text_config")
    if isinstance(text, Mapping) and (inside := _of_one(text)):
        found["text_config"] = {**text, **inside}
    return found


def older_names_of(folder: Path) -> dict[str, Any]:
    """`older_names` of a model's folder.

    Raises:
        OSError: its config.json cannot be read.
        ValueError: it is not JSON.
    """
    return older_names(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _of_one(config: Mapping[str, Any]) -> dict[str, Any]:
    table = config.get(TABLE)
    if not isinstance(table, Mapping):
        return {}
    whole, windowed = table.get("full_attention", table), table.get("sliding_attention", {})
    names = {
        "rope_theta": whole.get("rope_theta"),
        "partial_rotary_factor": whole.get("partial_rotary_factor"),
        "rope_scaling": _scaling(whole),
        "rope_local_base_freq": windowed.get("rope_theta"),
    }
    return {name: value for name, value in names.items() if value is not None and config.get(name) is None}


def _scaling(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """What stretches positions, None if nothing does; architectures differ in what they call its kind."""
    kind = table.get("rope_type") or table.get("type") or "default"
    if kind == "default":
        return None
    return {key: value for key, value in table.items() if key not in _BESIDE} | {
        "rope_type": kind,
        "type": kind,
    }
