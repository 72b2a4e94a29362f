"""Where a measurement was made: every result file says so."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("mlx", "mlx-lm", "torch", "transformers", "peft", "trl", "numpy", "textual", "textual-plot")


def provenance() -> dict[str, Any]:
    """Machine, versions, commit and date."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write(name: str, result: dict[str, Any]) -> Path:
    """Write a result file with its provenance."""
    path = RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, **provenance()}, indent=2) + "\n", encoding="utf-8")
    return path
