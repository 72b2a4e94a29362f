"""The model's own tokenizer, from its folder."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_align.data import ChatTokenizer, wrap_tokenizer
from mlx_align.errors import UsageError


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """The tokenizer and chat template of a model folder, with every token the model's files call an end.

    Raises:
        UsageError: the folder has no usable tokenizer or chat template.
    """
    # It would say that PyTorch was not found, which is not needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"the tokenizer cannot be loaded: {error}", where=str(folder)) from None
    wrapped = wrap_tokenizer(tokenizer)
    return replace(wrapped, stop_ids=wrapped.stop_ids | _declared_ends(folder))


def _declared_ends(folder: Path) -> frozenset[int]:
    """The eos_token_id of config.json and generation_config.json: a number or a list of numbers."""
    ends: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        declared = _table(folder / name).get("eos_token_id")
        ends |= set(declared if isinstance(declared, list) else [] if declared is None else [declared])
    return frozenset(ends)


def _table(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"the file is not JSON: {error}", where=str(path)) from None
    if not isinstance(table, dict):
        raise UsageError("the file is not a table of settings", where=str(path))
    return table
