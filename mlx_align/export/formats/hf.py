"""The merged model as the hub has models: what transformers, vLLM and llama.cpp's converter read.

The adapter is added to the base's own tensors, so files, index and names are the base's. A base that mlx-lm
wrote is dequantised and gets the hub's names again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mlx_align.export.adapter import Adapter
from mlx_align.export.base import Base
from mlx_align.export.merged_model import MergedModel
from mlx_align.export.provenance import Provenance
from mlx_align.export.shards import write_config, write_weights
from mlx_align.rope_names import older_names

Precision = Literal["bf16", "f16", "f32"]


def write(
    folder: Path, adapter: Adapter, base: Base, provenance: Provenance, dtype: Precision | None = None
) -> tuple[str, ...]:
    """Write the merged model into an existing folder.

    Args:
        folder: where to.
        adapter: what is added, in float32; each sum is rounded once.
        base: what it is added to.
        provenance: goes into every file's metadata.
        dtype: of the weights; None for the base's, of each tensor its own.

    Returns:
        What a person should know about it.

    Raises:
        UsageError: the adapter does not fit the base, or the base's layout is not known here.
    """
    model, target = MergedModel(base, adapter), dtype.upper() if dtype else None
    if base.converted:
        model.check_layout("a model in the hub's layout")
    files = {
        file: [model.one_by_one(name, target) for name in names if not base.is_part(name)]
        for file, names in base.tensors.files.items()
    }
    write_weights(folder, base, files, {"format": "pt", **provenance.metadata()})
    write_config(folder, base, target, None, older_names(base.config))  # for mlx-lm
    if not base.quantised:
        return ()
    return ("The base was quantised: its weights were dequantised, and need its memory several times.",)
