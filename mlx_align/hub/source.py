"""A model's folder, and whether it can be one."""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mlx_align import embedded
from mlx_align.errors import UsageError
from mlx_align.paths import typed
from mlx_align.weights import PATTERN, weight_files

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""owner/name; "./name", "../name" and "~/name" are folders."""


@dataclass(frozen=True)
class ModelSource:
    """A model on disk: its folder, the name it was asked for by, and the hub commit if it has one."""

    folder: Path
    name: str
    commit: str | None = None


def is_of_the_hub(name: str) -> bool:
    """Whether a name means a model of the hub: there is nothing else here that is called so."""
    here = os.path.exists(typed(name))  # where Path.exists raises, as for too long a name, nothing is here
    return name != embedded.TINY_CHAT and not here and HUB_ID.fullmatch(name) is not None


def check(source: ModelSource) -> None:
    """Refuse what is not a model, or one that brings code.

    Raises:
        UsageError: it cannot be used.
        DataError: the index of its weights cannot be used.
    """
    config = source.folder / "config.json"
    if not os.path.isdir(source.folder):
        near = difflib.get_close_matches(source.name, [embedded.TINY_CHAT], cutoff=0.7)
        raise UsageError(
            f"there is no model '{source.name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            hint="Give 'tiny-chat', a folder in the Hugging Face layout, or a hub id: 'Qwen/Qwen3-0.6B'.",
        )
    if not config.is_file() or not weight_files(source.folder):
        raise UsageError(
            "the folder is not a model: it needs config.json and model*.safetensors", where=str(source.folder)
        )
    _check_weights(source)
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"config.json is not JSON: {error}", where=str(config)) from None
    if not isinstance(facts, dict):
        raise UsageError("config.json is not a table of settings", where=str(config))
    if "model_file" in facts:
        raise UsageError(
            "the model brings its own Python code, which mlx-align does not run",
            where=f"{config}, key 'model_file'",
        )


def _check_weights(source: ModelSource) -> None:
    """Refuse weights of which a file is missing, or that would be read together with others.

    Files of a repository that nothing reads are its owner's, who has them beside the same model; in a folder
    they may be those of an older one.

    Raises:
        UsageError: one of the two.
    """
    files = weight_files(source.folder)
    absent = next((file for file in files if not file.is_file()), None)
    if absent is not None:
        raise UsageError(
            f"the model is not whole: '{absent.name}', which belongs to its weights, is not there",
            where=str(source.folder),
            hint="Copy or fetch the model again.",
        )
    others = sorted(set(source.folder.glob(PATTERN)) - set(files))
    if others and source.commit is None:
        raise UsageError(
            f"'{others[0].name}' does not belong to the model's weights, but MLX would read it with them",
            where=str(others[0]),
            hint="Remove it, or move it to another folder.",
        )
