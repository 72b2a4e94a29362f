"""What is looked at before an export writes anything."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlx_align.errors import AlignError, UsageError
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base


def check_fits(adapter: Adapter, base: Base) -> None:
    """See that every module of the adapter is in the base, in the same shape.

    Raises:
        UsageError: one is not, or the base's weights cannot be read here.
    """
    foreign = base.config.get("quantization_config")
    if not base.quantised and isinstance(foreign, dict):
        raise UsageError(
            f"the base is quantised in a way that is not read here: {foreign.get('quant_method', 'unknown')}",
            where=str(base.folder),
            hint="Only what MLX quantised is, or a base in f32, f16 or bf16.",
        )
    for name, module in adapter.modules.items():
        if name.endswith("lm_head") and base.tied:
            raise UsageError(
                f"the adapter changes '{name}', but the base has no output head of its own",
                where=str(base.folder),
                hint="Give the base that the adapter was trained on.",
            )
        if base.shape(name) != module.shape:
            raise UsageError(
                f"'{name}' is {module.shape} in the adapter and {base.shape(name)} in the base",
                where=str(base.folder),
                hint="Give the base that the adapter was trained on.",
            )


def check_space(folder: Path, needed_bytes: int) -> None:
    """See that the disk has room.

    Args:
        folder: where the export will lie; it need not exist yet.
        needed_bytes: how much it will take.

    Raises:
        AlignError: it has not.
    """
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise AlignError(
            f"the export takes {needed_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            where=str(folder),
            hint="Make room, or write to another disk.",
        )
