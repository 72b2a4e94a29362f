"""The model and the samples that come with the package, and the catalog of known bases.

In a checkout they are the top-level `models/` and `data_samples/`; an installed wheel carries copies
inside the package.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

TINY_CHAT = "tiny-chat"
SAMPLE = "sample"

_INSTALLED = Path(__file__).parent / "_embedded"
_ROOT = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent


def model_folder() -> Path:
    """The folder of the embedded chat model."""
    return _ROOT / "models" / TINY_CHAT


def samples_folder() -> Path:
    """The folder of the sample data."""
    return _ROOT / "data_samples"


def sample_for(rows: str) -> Path:
    """The sample for a kind of row: "pair", "completion" or "prompt"."""
    return samples_folder() / {"pair": "preferences", "completion": "sft", "prompt": "prompts"}[rows]


@cache
def catalog() -> dict[str, dict[str, Any]]:
    """Known bases: model path or id -> method -> {dotted key: value}."""
    return tomllib.loads((_ROOT / "models" / "catalog.toml").read_text(encoding="utf-8"))
