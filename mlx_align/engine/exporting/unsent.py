"""An export that is made and still has to be uploaded: the same request finds it again, and sends it.

What it was asked for by lies in its folder from before the upload until after it, as a digest in a file that
is not uploaded (see `hub_upload.upload`) and is no export's manifest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from mlx_align import __version__
from mlx_align.engine.exporting.options import Options
from mlx_align.engine.exporting.origin import Origin
from mlx_align.hub import resolve_gguf

NAME = ".mlx-align-unsent"


def note(folder: Path, origin: Origin, options: Options) -> None:
    """Say that an export is to be uploaded.

    Args:
        folder: the export's.
        origin: what is exported.
        options: how, settled.
    """
    (folder / NAME).write_text(_request(origin, options), encoding="utf-8")


def lies_at(path: Path, origin: Origin, options: Options) -> bool:
    """Whether this very export is there and was not uploaded; the arguments are those of `note`."""
    try:
        return (path / NAME).read_text(encoding="utf-8") == _request(origin, options)
    except OSError:  # nothing is there, or what was uploaded
        return False


def sent(folder: Path) -> None:
    """Say that an export was uploaded."""
    (folder / NAME).unlink(missing_ok=True)


def _request(origin: Origin, options: Options) -> str:
    """The digest of all that decides what the export is, and of the repository."""
    asked = asdict(replace(options, force=False, public=None))  # these say where it goes, not what it is
    graft = None
    if options.base_gguf is not None:
        found = resolve_gguf(options.base_gguf).stat()
        graft = (found.st_size, found.st_mtime_ns)
    facts = [__version__, asked, graft, origin.provenance.json()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
