"""An export takes its name when all of it is written and verified, or leaves nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_align.errors import AlignError, UsageError
from mlx_align.runs.atomic import sync


@contextmanager
def placed(path: Path, *, single: bool, force: bool) -> Iterator[Path]:
    """A hidden folder beside `path` to write into; when the block ends well, what is in it takes its place.

    Args:
        path: the folder's name or, if single, the file's; other files in the hidden folder go beside it.
        single: whether it is one file.
        force: whether it may replace what is there.

    Raises:
        UsageError: something is there.
        AlignError: it cannot be written there.
    """
    if path.exists() and not force:
        raise UsageError(
            f"there is already something at {path}", where="--out", hint="Give another --out, or --force."
        )
    if path.exists() and path.is_dir() == single:
        kind = "folder" if single else "file"
        raise UsageError(f"{path} is a {kind}, which is not replaced", where="--out", hint="Give another.")
    made = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    except OSError as error:
        raise AlignError(f"it cannot be written: {error.strerror or error}", where=str(path.parent)) from None
    try:
        yield temporary
        _take_place(temporary, path, single)
    except OSError as error:
        raise AlignError(f"it cannot be written: {error.strerror or error}", where=str(path)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made:
            with suppress(OSError):  # it is not empty: it holds the export
                path.parent.rmdir()


def _take_place(temporary: Path, path: Path, single: bool) -> None:
    for item in sorted(temporary.rglob("*"), reverse=True):
        sync(item)
    if single:
        for item in sorted(temporary.iterdir(), key=lambda item: item.name == path.name):  # it comes last
            item.replace(path.with_name(item.name))
    else:
        temporary.chmod(0o755)
        sync(temporary)
        old = path.with_name(f".{path.name}-old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    sync(path.parent)


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(file.stat().st_size for file in files)
