"""What the hub has of a model, how much of it is to be fetched, and whether there is room for that."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_align.errors import AlignError, DataError
from mlx_align.hub.reaching import ELSEWHERE, from_hub
from mlx_align.weights import INDEX, weight_names

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

COMPANIONS = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")
"""What is fetched beside the weights: configuration and tokenizer, never Python code or pickles."""
TEMPLATES = "additional_chat_templates"
"""The only folder of a repository that is read; others repeat the model in other forms."""


@dataclass(frozen=True)
class Parcel:
    """What the hub has of a model, and what of it is not on this disk.

    Attributes:
        name: owner/name.
        commit: which state of it.
        companions: paths of the files beside the weights that are read.
        weights: those of the weights.
        files: paths of the files still to be fetched.
        size: bytes of these.
        folder: the cache that they go to.
    """

    name: str
    commit: str
    companions: tuple[str, ...]
    weights: tuple[str, ...]
    files: tuple[str, ...]
    size: int
    folder: Path

    @property
    def free(self) -> int:
        """Bytes that are free where the cache is, or will be."""
        there = next(one for one in (self.folder, *self.folder.parents) if one.exists())
        return shutil.disk_usage(there).free

    def check_room(self) -> None:
        """Refuse what the disk has no room for.

        Raises:
            AlignError: there is too little.
        """
        if self.size > (free := self.free):
            raise AlignError(
                f"there is no room for {self.size:,} bytes of '{self.name}': {free:,} are free",
                where=str(self.folder),
                hint=f"Make room, or {ELSEWHERE}",
            )


def parcel(name: str, revision: str | None = None) -> Parcel:
    """What would have to be fetched for a model; only lists are asked for.

    Raises:
        UsageError: there is no such model.
        DataError: its weights are not whole there, or their index cannot be used.
        AlignError: the hub cannot be reached.
    """
    from huggingface_hub import errors

    def look(offline: bool) -> Parcel:
        if offline:
            raise errors.LocalEntryNotFoundError("a list is not in the cache")
        return listed(name, revision)

    return from_hub(name, revision, look)


def listed(name: str, revision: str | None) -> Parcel:
    """As `parcel`, with what the hub's library raises."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.hf_api import RepoFile

    api = huggingface_hub.HfApi()
    commit = str(api.model_info(name, revision=revision).sha)
    tree = api.list_repo_tree(name, revision=commit, recursive=True)
    files = {one.path: one for one in tree if isinstance(one, RepoFile)}
    index = None
    if INDEX in files:
        index = Path(huggingface_hub.hf_hub_download(name, INDEX, revision=commit)).read_bytes()
    try:
        weights = tuple(weight_names(files, index))
    except ValueError as error:
        raise DataError(f"the index cannot be used: {error}", where=f"{name}/{INDEX}") from None
    if (lacking := next((one for one in weights if one not in files), None)) is not None:
        raise DataError(
            f"the repository has no '{lacking}', which belongs to the model's weights",
            where=name,
            hint="Choose another revision of it, or another model.",
        )
    companions = tuple(path for path in files if _accompanies(path))
    absent = [path for path in (*companions, *weights) if not _is_cached(name, files[path], commit)]
    size, folder = sum(files[path].size for path in absent), Path(constants.HF_HUB_CACHE)
    return Parcel(name, commit, companions, weights, tuple(absent), size, folder)


def _accompanies(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder in ("", TEMPLATES) and any(fnmatchcase(name, pattern) for pattern in COMPANIONS)


def _is_cached(name: str, file: RepoFile, commit: str) -> bool:
    """Whether the cache has a file under a commit, or its content, which another commit has too."""
    import huggingface_hub
    from huggingface_hub import constants, file_download

    if isinstance(huggingface_hub.try_to_load_from_cache(name, file.path, revision=commit), str):
        return True
    of_model = file_download.repo_folder_name(repo_id=name, repo_type="model")
    content = file.blob_id if file.lfs is None else file.lfs.sha256
    return Path(constants.HF_HUB_CACHE, of_model, "blobs", content).is_file()
