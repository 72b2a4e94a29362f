"""A model of the hub without its weights: what a planner and a tokenizer read of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlx_align.errors import UsageError
from mlx_align.hub.fetching import download
from mlx_align.hub.listing import listed
from mlx_align.hub.source import ModelSource

AT_ONCE = 8
"""Headers that are asked for at the same time, as many as the hub's library fetches files."""


def outlined(folder: Path, name: str, revision: str | None, offline: bool) -> ModelSource:
    """Fill a folder with a model's small files, and with its weights' files as far as their headers go.

    Args:
        folder: an empty one.
        name: owner/name.
        revision: None for the newest.
        offline: whether the hub must not be asked, which is where headers come from.

    Raises:
        LocalEntryNotFoundError: it must not be asked. Besides, whatever the hub's library raises.
        UsageError: a file of weights is none.
    """
    import huggingface_hub
    from huggingface_hub import errors

    if offline:
        raise errors.LocalEntryNotFoundError("headers are not kept in the cache")
    found = listed(name, revision)
    there = download(name, found.commit, found.companions).folder
    for path in found.companions:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).symlink_to(there / path)
    api = huggingface_hub.HfApi()

    def fetch(file: str) -> None:
        try:
            header = api.parse_safetensors_file_metadata(name, file, revision=found.commit)
        except errors.SafetensorsParsingError as error:
            raise UsageError(f"the weights cannot be read: {error}", where=f"{name}/{file}") from None
        _write(folder / file, header.tensors)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(fetch, found.weights))
    return ModelSource(folder, name, found.commit)


def _write(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write a safetensors file that ends after its header, of what the hub's library made of it."""
    table = {
        name: {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": tensor.data_offsets}
        for name, tensor in tensors.items()
    }
    content = json.dumps(table).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)
