"""What lies beside an export so that it can be verified again: how it is loaded, its origin, the evidence.

A folder has it as `mlx-align.json`, a single file as `<file>.mlx-align.json` beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_align import __version__
from mlx_align.engine.exporting.readers import NEEDS
from mlx_align.engine.exporting.verification import Verification
from mlx_align.engine.exporting.writers import Written
from mlx_align.errors import AlignError, UsageError
from mlx_align.export.evidence import Evidence
from mlx_align.export.provenance import Provenance

NAME = "mlx-align.json"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """All that is kept about an export.

    Attributes:
        target: "gguf", "hf" and so on.
        written: how it is loaded.
        provenance: where it comes from.
        evidence: what it is measured by; None if it was not to be verified.
        verification: what came of it then.
    """

    target: str
    written: Written
    provenance: Provenance
    evidence: Evidence | None
    verification: Verification


def path_of(export: Path) -> Path:
    """Where an export's manifest is, by the export's own path."""
    return export / NAME if export.is_dir() else export.with_name(f"{export.name}.{NAME}")


def write(path: Path, manifest: Manifest) -> None:
    """Write it to a file."""
    facts = {
        "version": VERSION,
        "mlx_align": __version__,
        "target": manifest.target,
        "written": asdict(manifest.written),
        "verification": manifest.verification.json(),
        "provenance": json.loads(manifest.provenance.json()),
        "evidence": None if manifest.evidence is None else manifest.evidence.json(),
    }
    path.write_text(json.dumps(facts, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read(export: Path) -> Manifest:
    """The manifest of an export.

    Raises:
        UsageError: there is none, so this is no export of ours.
        AlignError: it is damaged, or of a later version.
    """
    path = path_of(export)
    if not export.exists() or not path.is_file():
        what = "has no manifest" if export.exists() else "is not there"
        raise UsageError(
            f"the export {what}", where=str(path if export.exists() else export),
            hint="Give the path that `mlx-align export` printed.",
        )  # fmt: skip
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if facts["version"] != VERSION:
            raise AlignError(
                f"the manifest is of version {facts['version']}", where=str(path), hint="Update mlx-align."
            )
        evidence = facts["evidence"]
        return Manifest(
            target=str(facts["target"]),
            written=_written(facts["written"]),
            provenance=Provenance.from_json(json.dumps(facts["provenance"])),
            evidence=None if evidence is None else Evidence.from_json(evidence),
            verification=Verification.from_json(facts["verification"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AlignError(f"the manifest cannot be read: {error!r}", where=str(path)) from None


def _written(facts: dict[str, Any]) -> Written:
    """How an export is loaded.

    Raises:
        ValueError: it would be by a program that is not known, or from outside its folder.
    """
    made = Written(**{**facts, "loaders": tuple(facts["loaders"]), "notes": tuple(facts["notes"])})
    if made.model != "." and (made.model == ".." or Path(made.model).name != made.model):
        raise ValueError(f"'{made.model}' is not in the export's folder")
    if not made.loaders or not set(made.loaders) <= {*NEEDS, "llama"}:
        raise ValueError(f"there is no loader {' or '.join(made.loaders)}")
    return made
