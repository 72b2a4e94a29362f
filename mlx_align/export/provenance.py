"""Where an export comes from: what travels inside every format, so that a file can tell it years later.

Nothing of it says where a person keeps their files: of local paths only the last part is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mlx_align.errors import AlignError

KEY = "mlx_align"
"""The name in the metadata of a safetensors file."""
GGUF_KEY = "mlx_align.provenance"
"""The key in a GGUF file; its value is a string."""


@dataclass(frozen=True)
class Provenance:
    """The origin of an export.

    Attributes:
        run: the run's name.
        method: what it was trained by.
        base: the base model's hub id, or the last part of its folder.
        base_commit: the hub's commit, if the base has one.
        base_digest: SHA-256 over the base's weights and config.json.
        adapter_digest: SHA-256 over the adapter's two files.
        data_fingerprint: SHA-256 over the rows.
        step: the optimiser updates that the adapter has seen.
        config: the run's configuration, as TOML, without folders.
        versions: library -> version, of training.
        metrics: the held-out measures of this adapter.
    """

    run: str
    method: str
    base: str
    base_commit: str | None
    base_digest: str
    adapter_digest: str
    data_fingerprint: str
    step: int
    config: str
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def json(self) -> str:
        """All of it on one line."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    def metadata(self) -> dict[str, str]:
        """The metadata of a safetensors file."""
        return {KEY: self.json()}

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read back what `json` wrote; keys of later versions are left out.

        Raises:
            AlignError: it is damaged.
        """
        try:
            facts = json.loads(text)
            return cls(**{name: facts[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError) as error:
            raise AlignError(f"the provenance cannot be read: {error}", where=KEY) from None


def without_folders(value: Any) -> Any:
    """The same value of JSON's types, with every text that is a path cut to its last part."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "./", "../")):
        return value.rstrip("/").rsplit("/", 1)[-1]
    return value
