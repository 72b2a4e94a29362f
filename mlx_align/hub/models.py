"""Models and files by the names that people give them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mlx_align import embedded
from mlx_align.errors import AlignError, UsageError
from mlx_align.hub.fetching import cached, is_missing, newest
from mlx_align.hub.headers import outlined
from mlx_align.hub.reaching import from_hub
from mlx_align.hub.source import HUB_ID, ModelSource, check, is_of_the_hub
from mlx_align.paths import typed


def resolve_model(name: str, revision: str | None = None) -> ModelSource:
    """Find a model, fetching it if it must be fetched; how much that is stands on stderr first.

    Raises:
        UsageError: there is no such model, or it is not one that can be used.
        AlignError: the hub cannot be reached and the model is not in the cache, or there is no room for it.
    """
    source = newest(name, revision) if is_of_the_hub(name) else _local(name, revision)
    check(source)
    return source


@contextmanager
def outline(name: str, revision: str | None = None) -> Iterator[ModelSource]:
    """A model for whoever reads no weights, as long as this lasts.

    Of one that is on the hub and not in the cache, only configuration, tokenizer and the headers of its
    weights are fetched: here the files of the weights end after their headers.

    Raises:
        UsageError: there is no such model, or it is not one that can be used.
        AlignError: the hub cannot be reached and the model is not in the cache.
    """
    if not is_missing(name, revision):
        source = cached(name, revision) if is_of_the_hub(name) else _local(name, revision)
        check(source)
        yield source
        return
    with TemporaryDirectory(prefix="mlx-align-") as made:
        folder = Path(made)
        try:
            source = from_hub(name, revision, lambda offline: outlined(folder, name, revision, offline))
            check(source)
            yield source
        except AlignError as error:  # nobody can look into a folder that is gone
            error.where = error.where and error.where.replace(made, name)
            raise


def _local(name: str, revision: str | None) -> ModelSource:
    folder = typed(name)
    if revision is not None:
        raise UsageError("a revision belongs to a hub model", where=f"model.revision = {revision}")
    if name == embedded.TINY_CHAT and not os.path.exists(folder):
        return ModelSource(embedded.model_folder(), name)
    return ModelSource(folder, name)


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

    return from_hub(name, None, download)
