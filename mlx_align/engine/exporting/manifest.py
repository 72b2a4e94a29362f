"""What lies beside an export so that it can be verified again: how it is loaded, its origin, the evidence.

A folder has it as `mlx-align.json`, a single file as `<file>.mlx-align.json` beside it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_align import __version__
from mlx_align.engine.exporting.verification import Verification
from mlx_align.engine.exporting.writers import Written
from mlx_align.errors import AlignError, UsageError
from mlx_align.export.evidence import Evidence
from mlx_align.export.provenance import Provenance
from mlx_align.runs.atomic import write_text

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
    write_text(path, json.dumps(facts, ensure_ascii=False, allow_nan=False) + "\n")


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
        evidence, written = facts["evidence"], facts["written"]
        return Manifest(
            target=str(facts["target"]),
            written=Written(
                **{**written, "loaders": tuple(written["loaders"]), "notes": tuple(written["notes"])}
            ),
            provenance=Provenance.from_json(json.dumps(facts["provenance"])),
            evidence=None if evidence is None else Evidence.from_json(evidence),
            verification=Verification(None, "read from the manifest"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AlignError(f"the manifest cannot be read: {error!r}", where=str(path)) from None
