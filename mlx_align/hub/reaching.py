"""Asking the hub: what the cache has where it does not answer, and what to do where that fails too."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from mlx_align.errors import AlignError, DataError, UsageError

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
    """What the hub has; where that cannot be had, what is whole in the cache, and a line that says why.

    Args:
        name: what is asked for, as a person calls it.
        revision: None for the newest.
        get: gets it. It is told whether it must do without the hub, and then raises LocalEntryNotFoundError
            for what is not whole in the cache.

    Raises:
        UsageError: there is no such model, file or revision.
        DataError: the hub has it, and it cannot be used.
        AlignError: the cache does not have it, and the hub cannot be reached, or there is no room, or the
            cache cannot be written.
    """
    from huggingface_hub import errors

    try:
        return get(False)
    except (UsageError, DataError):
        raise
    except errors.HFValidationError:
        raise UsageError(f"'{name}' is neither a folder nor a hub id", where="model.path") from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"'{name}' has no revision '{revision}'", where="model.revision") from None
    except Exception as failure:  # no room, or whatever disk and transport raise: the cache may still do
        disk = failure if isinstance(failure, AlignError) else _of_the_disk(failure)
        try:
            kept = get(True)
        except OSError:  # as LocalEntryNotFoundError is, too
            raise disk or _refusal(name, failure) from None
        if not isinstance(failure, errors.OfflineModeIsEnabled):
            why = f"the hub cannot be used ({_first_line(failure)})" if disk is None else disk.message
            say(f"{why}: '{name}' is taken from the cache")
        return kept


def answer(error: BaseException) -> tuple[int | None, BaseException]:
    """The status of the hub's answer that an error, or one that it came from, is about, and that one.

    Returns:
        None and the error itself, if it is about no answer.
    """
    one: BaseException | None = error
    while one is not None:
        status: int | None = getattr(getattr(one, "response", None), "status_code", None)
        if status is not None:
            return status, one
        one = one.__cause__
    return None, error


def _refusal(name: str, failure: Exception) -> AlignError:
    """Why something could not be had of the hub, where the cache does not have it."""
    from huggingface_hub import errors

    status, told = answer(failure)
    if isinstance(told, errors.GatedRepoError):
        return UsageError(
            f"access to '{name}' must be asked for on its hub page",
            hint="Then log in once with `hf auth login`.",
        )
    if isinstance(told, errors.RepositoryNotFoundError):
        return UsageError(
            f"the hub has no model '{name}', or it is private",
            hint="Check the spelling, or log in with `hf auth login`.",
        )
    if isinstance(told, errors.RemoteEntryNotFoundError):
        return UsageError(f"the hub has no file '{name}'")
    if status in (401, 403):
        return UsageError(
            f"the hub does not let you have '{name}': {_first_line(told)}",
            hint="Give your token the right to read it, on the hub's page of tokens, or log in with another "
            "one: `hf auth login`.",
        )
    if status is not None:
        return AlignError(
            f"'{name}' is not whole in the cache and the hub failed: {_first_line(told)}",
            hint="Try again later; what has been fetched already stays in the cache.",
        )
    return AlignError(
        f"'{name}' is not in the cache and the hub cannot be reached: {_first_line(failure)}",
        hint="Connect once to fetch it; after that it works offline.",
    )


def _of_the_disk(failure: Exception) -> AlignError | None:
    """What is wrong with the disk that the cache or the token lies on; None if it is something else."""
    from huggingface_hub import constants

    number, path = _number(failure), getattr(failure, "filename", None)
    where = str(path or constants.HF_HUB_CACHE)
    if number is not None and path is not None and str(path) == str(constants.HF_TOKEN_PATH):
        return AlignError(
            f"the hub's token cannot be read: {os.strerror(number)}",
            where=where,
            hint="Make it a file that you may read, or remove it and log in again with `hf auth login`.",
        )
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
    """The system's error number, of a file or of a connection; None where the failure has none."""
    if isinstance(failure, OSError) and failure.errno is not None:
        return failure.errno
    found = IN_RUST.search(str(failure))
    return int(found[1]) if found else None


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return "".join(character if character.isprintable() else "?" for character in line)
