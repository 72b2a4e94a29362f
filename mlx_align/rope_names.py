"""How positions turn queries and keys: as transformers 5 reads it in config.json, and in mlx-lm's words.

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
THETA, SHARE, SCALING = "rope_theta", "partial_rotary_factor", "rope_scaling"
WINDOWED = "rope_local_base_freq"
OWN_NAMES = {
    "gpt_neox": {THETA: "rotary_emb_base", SHARE: "rotary_pct"},
    "mimo_v2_flash": {WINDOWED: "swa_rope_theta"},
}
"""Architectures with older keys of their own, in mlx-lm and in transformers."""

MERGING = ("gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "olmo3")
"""Where layers differ, transformers puts `rope_scaling` into one table of these architectures. Of the others
it takes it for all there is, so that it must not be added to them."""


def tables(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What turns positions, of two kinds of layers, in the words of transformers 5.

    As there, a `rope_scaling` comes before the table, and the table before other keys beside it.

    Args:
        config: config.json of a language model, of any version.

    Returns:
        of layers that look at everything, and of those with a window where these differ, else nothing.
    """
    name, table = config.get("model_type"), _mapping(config.get(TABLE))
    scaling = _mapping(config.get(SCALING))
    if _by_layers(table):
        whole, windowed = (_mapping(table.get(f"{kind}_attention")) for kind in ("full", "sliding"))
        if name in MERGING:
            whole |= scaling
        whole = whole or dict(windowed)  # the others may turn nothing at all
    else:
        whole, windowed = scaling or table, {}
    for key in (THETA, SHARE):
        beside = config.get(_own(name, key))
        if whole.get(key) is None and beside is not None:
            whole[key] = beside
    return whole, windowed


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be added to a configuration so that mlx-lm reads its rotation.

    transformers comes to the same rotation with and without it.

    Args:
        config: config.json, of any version.

    Returns:
        top-level keys and their values; those that the configuration has already are among them only if
        transformers does not go by them, and `text_config` if something has to be added to it.
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
    return older_names(_read(folder))


def by_length(table: Mapping[str, Any]) -> bool:
    """Whether a table has factors, or a loudness, for short texts and others for long ones (LongRoPE)."""
    return any(table.get(f"short_{kind}") != table.get(f"long_{kind}") for kind in ("factor", "mscale"))


def turns_by_length(folder: Path) -> bool:
    """`by_length` of a model's folder.

    Raises:
        OSError: its config.json cannot be read.
        ValueError: it is not JSON.
    """
    config = _read(folder)
    return by_length(tables({**_mapping(config.get("text_config")), **config})[0])


def _read(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _of_one(config: Mapping[str, Any]) -> dict[str, Any]:
    name, table = config.get("model_type"), _mapping(config.get(TABLE))
    if not table:
        return {}
    whole, windowed = tables(config)
    values = {THETA: whole.get(THETA), SHARE: whole.get(SHARE), WINDOWED: windowed.get(THETA)}
    # What stands beside the tables is taken by each that lacks it, and the share by some programs for both.
    if windowed and THETA not in windowed and name not in MERGING:
        del values[THETA]
    if windowed and windowed.get(SHARE) != whole.get(SHARE):
        del values[SHARE]
    named = {_own(name, key): value for key, value in values.items() if value is not None}
    found = {key: value for key, value in named.items() if config.get(key) != value}
    if not config.get(SCALING) and (not _by_layers(table) or name in MERGING):
        scaling = _scaling(whole)
        if scaling is not None or SCALING not in config:  # some take no default for it
            found[SCALING] = scaling
    return found


def _by_layers(table: Mapping[str, Any]) -> bool:
    """Whether it has a table for each kind of layers, or null for one that turns nothing."""
    return any(key.endswith("_attention") or isinstance(value, Mapping) for key, value in table.items())


def _own(architecture: Any, key: str) -> str:
    """What an architecture calls a key."""
    return OWN_NAMES.get(architecture, {}).get(key, key)


def _mapping(value: Any) -> dict[str, Any]:
    """A table in a copy; nothing of what is none."""
    return dict(value) if isinstance(value, Mapping) else {}


def _scaling(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """What stretches positions, None if nothing does; architectures differ in what they call its kind."""
    kind = table.get("rope_type") or table.get("type") or "default"
    if kind == "default":
        return None
    return {key: value for key, value in table.items() if key not in (THETA, SHARE)} | {
        "rope_type": kind,
        "type": kind,
    }
