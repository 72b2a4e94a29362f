"""An adapter in mlx-lm's own format, which is the form that a run leaves behind."""

from __future__ import annotations

from pathlib import Path

from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.provenance import Provenance


def write(folder: Path, adapter: Adapter, base: Base, provenance: Provenance) -> None:
    """Write adapters.safetensors and adapter_config.json into an existing folder.

    Args:
        folder: where to.
        adapter: what is written.
        base: what it belongs to.
        provenance: goes into the file's metadata.
    """
    adapters.write(folder, adapter, provenance.metadata())
