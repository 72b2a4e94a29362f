"""An adapter made elsewhere, in PEFT's format or mlx-lm's, becomes the start of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlx_align.errors import UsageError
from mlx_align.export import adapter as adapters
from mlx_align.export import peft_reading
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.peft_layout import CONFIG
from mlx_align.export.preflight import check_fits
from mlx_align.runs.atomic import new_folder


def base_name(folder: Path) -> str | None:
    """The base that an adapter's configuration names, if it names one.

    Raises:
        UsageError: the folder is not an adapter.
    """
    facts = _facts(folder)
    name = facts.get("base_model_name_or_path") or facts.get("model")
    return name if isinstance(name, str) else None


def convert(folder: Path, base: Base, out: Path) -> Adapter:
    """Make mlx-lm's adapter folder of one in PEFT's format or mlx-lm's own.

    Args:
        folder: the adapter as it came.
        base: the model that it was trained on.
        out: a folder that is not there yet.

    Returns:
        what was written.

    Raises:
        UsageError: it is no adapter, or one that mlx-lm cannot express; it does not fit the base; `out` is
            there already.
        DataError: its files are damaged.
    """
    adapter = read(folder, base)
    check_fits(adapter, base)
    try:
        with new_folder(out) as new:
            adapters.write(new, adapter)
    except FileExistsError:
        raise UsageError(
            "the folder is there already", where=str(out), hint="Choose another with --out."
        ) from None
    return adapter


def read(folder: Path, base: Base) -> Adapter:
    """Read an adapter in PEFT's format or mlx-lm's, as mlx-lm would have it.

    Raises:
        UsageError: it is no adapter, or one that mlx-lm cannot express.
        DataError: its files are damaged.
    """
    facts = _facts(folder)
    if "peft_type" not in facts:
        found = adapters.read(folder)
        modules, scale, dropout = found.modules, found.scale, found.dropout
    else:
        modules, scale = peft_reading.read(folder, facts, base)
        dropout = float(facts.get("lora_dropout") or 0.0)
    return Adapter(modules, scale, dropout, adapters.describe(modules, base.layers, scale, dropout))


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    hint = "Give a folder as peft or mlx-lm writes it: adapter_config.json beside its .safetensors."
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"there is no adapter: {error}", where=str(folder), hint=hint) from None
    if not isinstance(facts, dict) or not {"peft_type", "lora_parameters", "fine_tune_type"} & facts.keys():
        raise UsageError("not the configuration of an adapter", where=str(path), hint=hint)
    return facts
