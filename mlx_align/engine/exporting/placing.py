"""An export takes its name when all of it is written and verified, or leaves nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_align.engine.exporting import manifest
from mlx_align.errors import AlignError, UsageError
from mlx_align.runs.atomic import sync


@contextmanager
def placed(path: Path, *, single: bool, force: bool) -> Iterator[Path]:
    """A hidden folder beside `path` to write into; when the block ends well, what is in it takes its place.

    The process's number is in its name: so what a killed process left can be told from what others write.

    Args:
        path: the folder's name or, if single, the file's; other files in the hidden folder go beside it.
        single: whether it is one file.
        force: whether it may replace an export that is there, or an empty folder.

    Raises:
        UsageError: something is there, or has come there meanwhile.
        AlignError: it cannot be written there.
    """
    path = path.absolute()
    _check_free(path, single, force)
    made = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    temporary = path.parent / f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
    try:  # from before the folder is there: a signal may come at any moment
        _make(temporary)
        yield temporary
        _check_free(path, single, force)  # another export may have been quicker
        _take_place(temporary, path, single)
    except OSError as error:
        raise AlignError(f"it cannot be written: {error.strerror or error}", where=str(path)) from None
    finally:
        _settle(temporary, path)
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # it is not empty: it holds the export
            for folder in made:
                folder.rmdir()


def _make(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise AlignError(
            f"it cannot be written: {error.strerror or error}", where=str(folder.parent)
        ) from None


def _check_free(path: Path, single: bool, force: bool) -> None:
    """See that nothing is there but, with `force`, what may be replaced: nobody's own files ever.

    Raises:
        UsageError: something is.
    """
    if path.is_symlink():
        what = f"{path} is a link, which is not replaced"
    elif not path.exists():
        return
    elif not force:
        raise UsageError(
            f"there is already something at {path}", where="--out", hint="Give another --out, or --force."
        )
    elif path.is_dir() == single:
        what = f"{path} is a {'folder' if single else 'file'}, which is not replaced"
    elif manifest.path_of(path).is_file() or (not single and not any(path.iterdir())):
        return
    else:
        what = f"{path} is no export of mlx-align, and --force replaces nothing else"
    raise UsageError(what, where="--out", hint="Give another.")


def _take_place(temporary: Path, path: Path, single: bool) -> None:
    for item in sorted(temporary.rglob("*"), reverse=True):
        sync(item)
    if single:
        for item in sorted(temporary.iterdir(), key=lambda item: item.name == path.name):  # it comes last
            item.replace(path.with_name(item.name))
    else:
        temporary.chmod(0o755)
        sync(temporary)
        _swap(temporary, path)
    sync(path.parent)


def _swap(folder: Path, path: Path) -> None:
    """Give a folder its name; what had it before is put aside, for `_settle`."""
    if path.exists():
        path.rename(_aside(folder))
    folder.rename(path)


def _aside(folder: Path) -> Path:
    """Where an older export lies while this folder takes its name."""
    return folder.with_name(f"{folder.name}-old")


def _settle(folder: Path, path: Path) -> None:
    """An older export that was put aside is removed if `folder` has its name now, and comes back if not."""
    if not folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
    else:
        with suppress(OSError):  # there was none, or somebody else has taken the name: it stays, hidden
            _aside(folder).rename(path)


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(file.stat().st_size for file in files)
