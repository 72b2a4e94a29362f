"""Which files the weights of a model are read from, in its folder or in its repository on the hub.

Some models come twice, with `consolidated.safetensors` or `original/*.safetensors` beside what loaders read.
An index says which files count; without it `model.safetensors` does, and else those that mlx-lm reads, with
all that their names tell of: "-00001-of-00002".
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from mlx_align.errors import DataError

INDEX = "model.safetensors.index.json"
"""Which file has which tensor, in a model of several files."""
SINGLE = "model.safetensors"
PATTERN = "model*.safetensors"
"""What mlx-lm reads of a folder: all of it, whatever an index says."""
PART = re.compile(r"(.+)-\d{5}-of-(0?\d{5})\.safetensors")


def weight_files(folder: Path, pattern: str = PATTERN) -> list[Path]:
    """The files that a folder's weights are read from; those that others tell of need not be there.

    Args:
        folder: where they lie.
        pattern: as for `weight_names`.

    Raises:
        DataError: the index cannot be used.
    """
    index = folder / INDEX
    try:
        content = index.read_bytes() if index.is_file() else None
        names = weight_names([file.name for file in folder.glob("*.safetensors")], content, pattern)
    except (OSError, ValueError) as error:
        raise DataError(f"the index cannot be used: {error}", where=str(index)) from None
    return [folder / name for name in names]


def weight_names(names: Collection[str], index: bytes | None, pattern: str = PATTERN) -> list[str]:
    """The names of the files that weights are read from, sorted; not all need be among those there are.

    Args:
        names: of all files, relative to the model's folder.
        index: the content of INDEX; None where there is none.
        pattern: which files, if no index names them and there is no `model.safetensors`.

    Raises:
        ValueError: the index is none, or names files outside its folder.
    """
    listed = [] if index is None else _indexed(index)
    stale = SINGLE in names and not set(listed) & set(names)  # left behind by whoever joined the files
    if listed and not stale:
        return listed
    if SINGLE in names:
        return [SINGLE]
    return _with_all_parts({name for name in names if "/" not in name and fnmatchcase(name, pattern)})


def _with_all_parts(names: set[str]) -> list[str]:
    """Names, and those of the parts that are missing among them, sorted."""
    parts: set[str] = set()
    for stem, count in {match.groups() for match in map(PART.fullmatch, names) if match}:
        first = 0 if f"{stem}-00000-of-{count}.safetensors" in names else 1
        numbers = range(first, first + int(count))
        parts |= {f"{stem}-{number:05}-of-{count}.safetensors" for number in numbers}
    return sorted(names | parts)


def _indexed(index: bytes) -> list[str]:
    """The file names of an index, each once, sorted."""
    try:
        names = sorted(set(json.loads(index)["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ValueError("it names files outside its folder")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it has no table of files, {error!r}") from None
    return names
