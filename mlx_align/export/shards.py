"""A model's folder, written: weights in files, one tensor in memory at a time, and what lies beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_align.export.base import DTYPES, Base
from mlx_align.export.tensors import Entry, Writer, size_of
from mlx_align.weights import INDEX

COMPANIONS = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken", "LICENSE*", "NOTICE*")
"""What is copied: tokenizer, template, settings of generation, terms. Never Python code, never pickles."""

REWRITTEN = ("config.json", INDEX, "adapter_config.json", "mlx-align.json")
"""What is not copied, because it says something about the weights, and they change."""


@dataclass(frozen=True)
class Piece:
    """Tensors that are made together and lie together in a file.

    Args:
        entries: name, dtype and shape of each.
        make: makes their bytes, in this order.
    """

    entries: tuple[Entry, ...]
    make: Callable[[], Iterable[bytes | memoryview]]


def write_weights(
    folder: Path, base: Base, files: Mapping[str, Sequence[Piece]], metadata: Mapping[str, str]
) -> None:
    """Write a model's tensors, in several files with an index if the base has one or several.

    Args:
        folder: an existing folder.
        base: the model whose files these replace.
        files: file name -> what is in it.
        metadata: free text by key; what the base's file has is kept beside it.
    """
    files = {name: pieces for name, pieces in files.items() if pieces}
    for name, pieces in files.items():
        entries = [entry for piece in pieces for entry in piece.entries]
        with Writer(folder / name, entries, {**base.tensors.metadata(name), **metadata}) as writer:
            for piece in pieces:
                for entry, data in zip(piece.entries, piece.make(), strict=True):
                    writer.write(entry[0], data)
    if len(files) > 1 or (base.folder / INDEX).is_file():
        _write_index(folder, base, files)


def _write_index(folder: Path, base: Base, files: Mapping[str, Sequence[Piece]]) -> None:
    entries = [(file, entry) for file, pieces in files.items() for piece in pieces for entry in piece.entries]
    old = base.folder / INDEX
    facts = json.loads(old.read_text(encoding="utf-8")).get("metadata") if old.is_file() else None
    index = {
        "metadata": {**(facts or {}), "total_size": sum(size_of(entry) for _, entry in entries)},
        "weight_map": {entry[0]: file for file, entry in sorted(entries, key=lambda item: item[1][0])},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_config(
    folder: Path,
    base: Base,
    dtype: str | None,
    quantisation: dict[str, Any] | None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json, and copy what else a loader reads.

    Args:
        folder: an existing folder.
        base: the model that config.json comes from.
        dtype: the weights' ("BF16"), None if it is what the base's config.json says.
        quantisation: the table that mlx-lm reads; None if nothing is quantised.
        more: keys of config.json that the base's has not.
    """
    config = {key: value for key, value in base.config.items() if key not in ("auto_map", *_TABLES)}
    config |= more or {}
    if dtype is not None:
        named = next(name for name, short in DTYPES.items() if short == dtype)
        config = _with_dtype(config, named)
    if quantisation is not None:
        config |= dict.fromkeys(_TABLES, quantisation)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in sorted({file for pattern in COMPANIONS for file in base.folder.glob(pattern)}):
        if file.is_file() and file.name not in REWRITTEN and file.suffix != ".py":
            shutil.copyfile(file, folder / file.name)


_TABLES = ("quantization", "quantization_config")


def _with_dtype(config: dict[str, Any], named: str) -> dict[str, Any]:
    """The same settings for weights of another dtype; both spellings of the key are read by somebody."""
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
    text = config.get("text_config")
    nested = {"text_config": _with_dtype(text, named)} if isinstance(text, dict) else {}
    return {**config, **nested, **dict.fromkeys(keys, named)}
