"""A model of the hub, fetched into its cache or found there."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_align.errors import DataError
from mlx_align.hub.listing import COMPANIONS, listed
from mlx_align.hub.reaching import from_hub, say
from mlx_align.hub.source import ModelSource, check, is_of_the_hub
from mlx_align.units import size
from mlx_align.weights import weight_files


def is_missing(name: str, revision: str | None = None) -> bool:
    """Whether it is a model of the hub that is not whole in the cache; nobody is asked for that."""
    if not is_of_the_hub(name):
        return False
    from huggingface_hub import errors

    try:
        cached(name, revision)
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return True
    return False


def fetch(name: str, revision: str | None, moved: Callable[[], None]) -> ModelSource:
    """Fetch a model; whole files that are in the cache already are not fetched again.

    Args:
        name: owner/name.
        revision: None for the newest.
        moved: called, on several threads, whenever something has arrived. What it raises ends the work, and
            the hub's library then removes the files that are not whole.

    Raises:
        UsageError: there is no such model, or it cannot be used.
        AlignError: the hub cannot be reached, or there is no room.
    """
    from huggingface_hub.utils.tqdm import tqdm

    class Watched(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> Any:
            moved()
            return super().update(n)

    source = newest(name, revision, Watched)
    check(source)
    return source


def newest(name: str, revision: str | None, bars: Any = None) -> ModelSource:
    """What the hub has now, announced on stderr if it is to be fetched; else what the cache has.

    Args:
        name: owner/name.
        revision: None for the newest.
        bars: the class of the progress bars; None for the library's own.

    Raises:
        UsageError: there is no such model.
        AlignError: it cannot be fetched, or there is no room for it.
    """

    def get(offline: bool) -> ModelSource:
        if offline:
            return cached(name, revision)
        found = listed(name, revision)
        if found.files:
            found.check_room()
            files = f"{len(found.files)} file{'s' * (len(found.files) > 1)}"
            say(f"fetching '{name}' from the hub: {size(found.size)} in {files}, into {found.folder}")
        return download(name, revision, (*found.companions, *found.weights), bars)

    return from_hub(name, revision, get)


def download(name: str, revision: str | None, paths: Sequence[str], bars: Any = None) -> ModelSource:
    """Files of a model, fetched where the cache does not have them; with what the hub's library raises.

    Raises:
        LocalEntryNotFoundError: the hub did not answer, and the library has answered from its cache.
    """
    import huggingface_hub
    from huggingface_hub import errors

    patterns = [glob.escape(path) for path in paths]
    folder = Path(
        huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns, tqdm_class=bars)
    )
    for path in paths:
        if not (folder / path).is_file():
            raise errors.LocalEntryNotFoundError(f"'{path}' did not come")
    return ModelSource(folder, name, commit=folder.name)


def cached(name: str, revision: str | None) -> ModelSource:
    """A model as it lies whole in the cache.

    Raises:
        LocalEntryNotFoundError: it is not there, or a part of it only.
    """
    import huggingface_hub
    from huggingface_hub import errors

    folder = Path(
        huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(COMPANIONS),
            ignore_patterns=["*/*"],
            local_files_only=True,
        )
    )
    if not _is_whole(folder):
        raise errors.LocalEntryNotFoundError("a part of it only is in the cache")
    return ModelSource(folder, name, commit=folder.name)


def _is_whole(folder: Path) -> bool:
    """Whether there are a configuration and all weights: a program that asked for less leaves a part."""
    try:
        files = weight_files(folder)
    except DataError:
        return False
    return bool(files) and all(file.is_file() for file in (*files, folder / "config.json"))
