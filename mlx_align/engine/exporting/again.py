"""Verifying a finished export again, wherever it has gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlx_align.config import RunConfig
from mlx_align.digests import files_of_model
from mlx_align.engine.exporting import manifest
from mlx_align.engine.exporting.origin import digest_of
from mlx_align.engine.exporting.readers import Surroundings
from mlx_align.engine.exporting.verification import Verification, verify
from mlx_align.errors import AlignError, UsageError
from mlx_align.export.provenance import Provenance
from mlx_align.hub import is_of_the_hub, resolve_gguf, resolve_model
from mlx_align.runs import run_around
from mlx_align.runs.chosen import model_of


def verify_again(
    export: Path, *, base: str | None = None, base_gguf: str | None = None, device: str = "auto"
) -> Verification:
    """Compare an export with the evidence that lies beside it.

    Args:
        export: the folder or file.
        base: the base model of an adapter; None: the one of the run that the export lies in, or by its name.
        base_gguf: a GGUF of the base, for an adapter in GGUF.
        device: where MLX computes: "auto" or "cpu".

    Raises:
        UsageError: it is not an export of ours, was made with --no-verify, or its base cannot be found.
        AlignError: it is not what was trained, or is damaged.
    """
    found = manifest.read(export)
    if found.evidence is None:
        raise UsageError(
            "it was exported with --no-verify, so there is nothing to compare it with", where=str(export),
            hint="Export it again without --no-verify.",
        )  # fmt: skip
    folder, written = export, found.written
    if not export.is_dir():  # it may have got another name since
        folder, written = export.parent, replace(written, model=export.name)
    gguf = None if base_gguf is None else resolve_gguf(base_gguf)
    needs_base = written.worn and gguf is None
    model = _base(export, base, found.provenance) if needs_base else None
    around = Surroundings(found.provenance, base=model, base_gguf=gguf, device=device)
    return verify(folder, written, found.evidence, around)


def _base(export: Path, named: str | None, provenance: Provenance) -> Path | None:
    """The base model's folder, once it is sure to be the right one; None if it is not known where it is."""
    run = run_around(export)
    try:
        if named is not None:
            folder = resolve_model(named).folder
        elif run is not None:
            folder = model_of(run)
        elif provenance.on_hub or not is_of_the_hub(provenance.base):
            folder = resolve_model(provenance.base, provenance.base_commit).folder
        else:  # a folder's name, and nobody asks the hub whether it has one that is called so
            return None
    except AlignError:
        if named is not None:
            raise
        return None
    if digest_of(folder, files_of_model, RunConfig()) != provenance.base_digest:
        raise UsageError(
            f"this is not the base that the adapter was trained on ({provenance.base})", where=str(folder),
            hint="Name it with --base.",
        )  # fmt: skip
    return folder
