"""Where an export comes from: what travels inside every format, so that a file can tell it years later.

Nothing of it says where a person keeps their files: of local paths only the last part is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mlx_align.config import PATHS, REWARD_PATHS, RunConfig
from mlx_align.errors import AlignError
from mlx_align.hub import HUB_ID

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
        base_commit: the hub's commit; None if the base is a folder or the embedded model.
        base_digest: SHA-256 over the base's weights and config.json.
        adapter_digest: SHA-256 over the adapter's two files.
        data_fingerprint: SHA-256 over the rows.
        step: the optimiser updates that the adapter has seen.
        config: the run's configuration, as TOML, without folders.
        versions: library -> version, of training.
        metrics: the held-out measures of this adapter.
        positions: of a base with two lists of position factors (LongRoPE): "list", with which it was trained,
            "short" or "long", and "border", the tokens of the longest sequence that is short; else None.
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
    positions: Mapping[str, Any] | None = None

    @property
    def on_hub(self) -> bool:
        """Whether the base came from the hub, so that `base` names it there for everybody."""
        return self.base_commit is not None and HUB_ID.fullmatch(self.base) is not None

    def json(self) -> str:
        """All of it on one line."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    def metadata(self) -> dict[str, str]:
        """The metadata of a safetensors file."""
        return {KEY: self.json()}

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read back what `json` wrote; keys of later versions are left out, and earlier ones may lack some.

        Raises:
            AlignError: it is damaged.
        """
        try:
            facts = json.loads(text)
            return cls(**{name: facts[name] for name in cls.__dataclass_fields__ if name in facts})
        except (ValueError, KeyError, TypeError) as error:
            raise AlignError(f"the provenance cannot be read: {error}", where=KEY) from None


def last_part(path: str) -> str:
    """A local path without its folders."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def base_name(model: str, commit: str | None) -> str:
    """What others may call a base: its hub id, or the last part of its folder.

    Args:
        model: as it was asked for; "me/model" may be either.
        commit: the hub's commit that the run recorded, which only a model of the hub has.
    """
    return model if commit is not None else last_part(model)


def without_folders(config: RunConfig, commit: str | None) -> dict[str, Any]:
    """A configuration as values of JSON's types, with its paths, and nothing else, cut to their last part.

    Args:
        config: a run's.
        commit: the hub's commit of the base; None if it is a folder or the embedded model.
    """
    values = config.model_dump(mode="json")
    for key in PATHS:
        section, name = key.split(".")
        path = values[section][name]
        values[section][name] = path if path is None else last_part(path)
    values["model"]["path"] = base_name(config.model.path, commit)
    for reward in values["rewards"]:
        for name in REWARD_PATHS:
            if os.path.isabs(str(reward.get(name))):  # else it is a reward's name, or a judge's hub id
                reward[name] = last_part(reward[name])
    return values
