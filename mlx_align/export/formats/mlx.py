"""An adapter in mlx-lm's own format, which is the form that a run leaves behind."""

from __future__ import annotations

from pathlib import Path

from mlx_align.export import adapter as adapters
from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.provenance import Provenance
from mlx_align.rope_names import older_names

NEWER = (
    "The base's config.json tells its rotation in transformers 5's words, which mlx-lm itself reads of few "
    "architectures. Where mlx-lm answers otherwise, use `mlx-align serve`, or --to mlx-fused."
)


def write(folder: Path, adapter: Adapter, base: Base, provenance: Provenance) -> tuple[str, ...]:
    """Write adapters.safetensors and adapter_config.json into an existing folder.

    Args:
        folder: where to.
        adapter: what is written.
        base: what it belongs to.
        provenance: goes into the file's metadata.

    Returns:
        What a person should know about it.
    """
    adapters.write(folder, adapter, provenance.metadata())
    return (NEWER,) if older_names(base.config) else ()
