"""Asking the hub: what the cache has where it does not answer, and what to do where that fails too."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from mlx_align.errors import AlignError, UsageError

T = TypeVar("T")

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_RUST = re.compile(r"\(os error (\d+)\)")
"""How the hub's own transport, which is no Python, ends its message about a file."""
ELSEWHERE = "set HF_HUB_CACHE to a folder on another disk."


def say(text: str) -> None:
    """Print a line on stderr, which in an engine is its log, if there is still somebody to read it."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def from_hub(name: str, revision: str | None, get: Callable[[bool], T]) -> T:
    """What the hub has; where it does not answer, what is whole in the cache, and a line that says so.

    Args:
        name: what is asked for, as a person calls it.
        revision: None for the newest.
        get: gets it. It is told whether it must do without the hub, and then raises LocalEntryNotFoundError
            for what is not whole in the cache.

    Raises:
        UsageError: there is no such model, file or revision.
        AlignError: the hub cannot be reached and the cache does not have it, or the cache cannot be written.
    """
    from huggingface_hub import errors

    try:
        return get(False)
    except AlignError:
        raise
    except errors.HFValidationError:
        raise UsageError(f"'{name}' is neither a folder nor a hub id", where="model.path") from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"'{name}' has no revision '{revision}'", where="model.revision") from None
    except Exception as failure:  # whatever the transport raises, the cache may still do
        if (told := _of_the_disk(failure)) is not None:
            raise told from None
        try:
            kept = get(True)
        except errors.LocalEntryNotFoundError:
            raise _refusal(name, failure) from None
        if not isinstance(failure, errors.OfflineModeIsEnabled):
            say(f"the hub cannot be used ({_first_line(failure)}): '{name}' is taken from the cache")
        return kept


def _refusal(name: str, failure: Exception) -> AlignError:
    """Why something could not be had of the hub, where the cache does not have it."""
    from huggingface_hub import errors

    if isinstance(failure, errors.GatedRepoError):
        return UsageError(
            f"access to '{name}' must be asked for on its hub page",
            hint="Then log in once with `hf auth login`.",
        )
    if isinstance(failure, errors.RepositoryNotFoundError):
        return UsageError(
            f"the hub has no model '{name}', or it is private",
            hint="Check the spelling, or log in with `hf auth login`.",
        )
    if isinstance(failure, errors.RemoteEntryNotFoundError):
        return UsageError(f"the hub has no file '{name}'")
    if isinstance(failure, errors.HfHubHTTPError):
        return AlignError(
            f"'{name}' is not whole in the cache and the hub failed: {_first_line(failure)}",
            hint="Try again later; what has been fetched already stays in the cache.",
        )
    return AlignError(
        f"'{name}' is not in the cache and the hub cannot be reached: {_first_line(failure)}",
        hint="Connect once to fetch it; after that it works offline.",
    )


def _of_the_disk(failure: Exception) -> AlignError | None:
    """What is wrong with the disk that the cache lies on; None if it is something else."""
    from huggingface_hub import constants

    number, path = _number(failure), getattr(failure, "filename", None)
    where = str(path or constants.HF_HUB_CACHE)
    if number in FULL:
        return AlignError(
            "there is no room left for the model", where=where, hint=f"Make room, or {ELSEWHERE}"
        )
    if number is not None and (number in CLOSED or path):
        return AlignError(
            f"the cache of models cannot be written: {os.strerror(number)}",
            where=where,
            hint=f"Make it writable, or {ELSEWHERE}",
        )
    return None


def _number(failure: Exception) -> int | None:
    """The system's error number; None where it is none of its errors, or one of the network."""
    if isinstance(failure, OSError) and failure.errno is not None:
        return failure.errno
    found = IN_RUST.search(str(failure))
    return int(found[1]) if found else None


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "".join(character if character.isprintable() else "?" for character in line)
