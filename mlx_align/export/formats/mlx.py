"""An adapter in mlx-lm's own format, which is the form that a run leaves behind."""

from __future__ import annotations

from pathlib import Path

from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter
from mlx_align.export.provenance import Provenance


def write(folder: Path, adapter: Adapter, provenance: Provenance) -> tuple[str, ...]:
    """Write adapters.safetensors and adapter_config.json into an existing folder.

    Returns:
        What a person should know about it: nothing.
    """
    adapters.write(folder, adapter, provenance.metadata())
    return ()
