"""From what a person calls a model to a folder on this disk.

"tiny-chat" is the embedded model, an existing path is a local folder, anything of the form
"owner/name" is fetched from the Hugging Face hub once and found in its cache from then on.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from mlx_align import embedded
from mlx_align.errors import AlignError, UsageError
from mlx_align.paths import typed

WANTED = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken"]
"""What is fetched: weights and tokenizer, never Python code or pickles."""


T = TypeVar("T")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""owner/name; "./name", "../name" and "~/name" are folders."""


@dataclass(frozen=True)
class ModelSource:
    """A model on disk: its folder, the name it was asked for by, and the hub commit if it has one."""

    folder: Path
    name: str
    commit: str | None = None


def resolve_model(name: str, revision: str | None = None) -> ModelSource:
    """Find a model, fetching it if it must be fetched.

    Raises:
        UsageError: there is no such model, or it is not one that can be used.
        AlignError: the hub cannot be reached and the model is not in the cache.
    """
    local = typed(name)
    here = os.path.exists(local)  # where Path.exists raises, as for a name that is too long, nothing is here
    if name != embedded.TINY_CHAT and not here and HUB_ID.fullmatch(name):
        source = _fetch(name, revision)
    elif revision is not None:
        raise UsageError("a revision belongs to a hub model", where=f"model.revision = {revision}")
    elif name == embedded.TINY_CHAT and not here:
        source = ModelSource(embedded.model_folder(), name)
    else:
        source = ModelSource(local, name)
    _check(source)
    return source


def _check(source: ModelSource) -> None:
    config = source.folder / "config.json"
    if not os.path.isdir(source.folder):
        near = difflib.get_close_matches(source.name, [embedded.TINY_CHAT], cutoff=0.7)
        raise UsageError(
            f"there is no model '{source.name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            hint="Give 'tiny-chat', a folder in the Hugging Face layout, or a hub id: 'Qwen/Qwen3-0.6B'.",
        )
    if not config.is_file() or not any(source.folder.glob("*.safetensors")):
        raise UsageError(
            "the folder is not a model: it needs config.json and *.safetensors", where=str(source.folder)
        )
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"config.json is not JSON: {error}", where=str(config)) from None
    if not isinstance(facts, dict):
        raise UsageError("config.json is not a table of settings", where=str(config))
    if "model_file" in facts:
        raise UsageError(
            "the model brings its own Python code, which mlx-align does not run",
            where=f"{config}, key 'model_file'",
        )


def resolve_gguf(name: str) -> Path:
    """Find a GGUF file: a path, or owner/name/file.gguf on the hub, fetched once and then in its cache.

    Raises:
        UsageError: there is no such file.
        AlignError: the hub cannot be reached and the file is not in the cache.
    """
    local = typed(name)
    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if os.path.isfile(local):
        return local
    if not HUB_ID.fullmatch(f"{owner}/{repository}") or not file.endswith(".gguf"):
        raise UsageError(
            f"there is no file '{name}'", hint="Give a .gguf file, or one on the hub: owner/name/file.gguf."
        )

    def download(offline: bool) -> Path:
        import huggingface_hub

        got = huggingface_hub.hf_hub_download(f"{owner}/{repository}", file, local_files_only=offline)
        return Path(got)

    return _from_hub(name, None, download)


@dataclass(frozen=True)
class Parcel:
    """What the hub has of a model, and what of it is not on this disk.

    Attributes:
        files: paths of the files still to be fetched.
        size: bytes of these.
        folder: the cache that they go to.
    """

    files: tuple[str, ...]
    size: int
    folder: Path


def is_missing(name: str, revision: str | None = None) -> bool:
    """Whether it is a model of the hub that is not whole in the cache; nobody is asked for that."""
    if name == embedded.TINY_CHAT or os.path.exists(typed(name)) or not HUB_ID.fullmatch(name):
        return False
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=WANTED, local_files_only=True
        )
    except (hub_errors.LocalEntryNotFoundError, hub_errors.HFValidationError):
        return True
    return not _is_whole(Path(folder))


def _is_whole(folder: Path) -> bool:
    """Whether there are a configuration and all weights: a program that asked for less leaves a part."""
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else set()
    except (ValueError, KeyError, AttributeError):
        return False
    weights = all((folder / name).is_file() for name in names) if names else any(folder.glob("*.safetensors"))
    return weights and (folder / "config.json").is_file()


def parcel(name: str, revision: str | None = None) -> Parcel:
    """What would have to be fetched for a model; only lists are asked for.

    Raises:
        UsageError: there is no such model.
        AlignError: the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.hf_api import RepoFile

    def look(offline: bool) -> Parcel:
        if offline:
            raise errors.LocalEntryNotFoundError("a list is not in the cache")
        api = huggingface_hub.HfApi()
        commit = api.model_info(name, revision=revision).sha
        tree = api.list_repo_tree(name, revision=commit, recursive=True)
        sizes = {one.path: one.size for one in tree if isinstance(one, RepoFile)}
        wanted = [path for path in sizes if any(fnmatch(path, pattern) for pattern in WANTED)]
        absent = [
            path
            for path in wanted
            if not isinstance(huggingface_hub.try_to_load_from_cache(name, path, revision=commit), str)
        ]
        size = sum(sizes[path] for path in absent)
        return Parcel(tuple(absent), size, Path(constants.HF_HUB_CACHE))

    return _from_hub(name, revision, look)


def fetch(name: str, revision: str | None, moved: Callable[[], None]) -> ModelSource:
    """Fetch a model; whole files that are in the cache already are not fetched again.

    Args:
        name: owner/name.
        revision: None for the newest.
        moved: called, on several threads, whenever something has arrived. What it raises ends the work, and
            the hub's library then removes the files that are not whole.

    Raises:
        UsageError: there is no such model, or it cannot be used.
        AlignError: the hub cannot be reached.
    """
    from huggingface_hub.utils.tqdm import tqdm

    class Watched(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> Any:
            moved()
            return super().update(n)

    source = _fetch(name, revision, Watched)
    _check(source)
    return source


def _fetch(name: str, revision: str | None, bars: Any = None) -> ModelSource:
    def snapshot(offline: bool) -> ModelSource:
        import huggingface_hub

        folder = Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=WANTED,
                local_files_only=offline,
                tqdm_class=bars,
            )
        )
        return ModelSource(folder, name, commit=folder.name)

    return _from_hub(name, revision, snapshot)


def _from_hub(name: str, revision: str | None, get: Callable[[bool], T]) -> T:
    """What `get` fetches, or has in its cache when it is told that it is offline."""
    from huggingface_hub import errors as hub_errors

    try:
        return get(False)
    except hub_errors.HFValidationError:
        raise UsageError(f"'{name}' is neither a folder nor a hub id", where="model.path") from None
    except hub_errors.GatedRepoError:
        raise UsageError(
            f"access to '{name}' must be asked for on its hub page",
            hint="Then log in once with `hf auth login`.",
        ) from None
    except hub_errors.RevisionNotFoundError:
        raise UsageError(f"'{name}' has no revision '{revision}'", where="model.revision") from None
    except hub_errors.RepositoryNotFoundError:
        raise UsageError(
            f"the hub has no model '{name}', or it is private",
            hint="Check the spelling, or log in with `hf auth login`.",
        ) from None
    except hub_errors.RemoteEntryNotFoundError:
        raise UsageError(f"the hub has no file '{name}'") from None
    except Exception as online:  # no network: whatever the transport raises, the cache may still do
        try:
            return get(True)
        except hub_errors.LocalEntryNotFoundError:
            raise AlignError(
                f"'{name}' is not in the cache and the hub cannot be reached: {_first_line(online)}",
                hint="Connect once to fetch it; after that it works offline.",
            ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
