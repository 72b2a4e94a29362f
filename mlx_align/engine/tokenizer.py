"""The model's own tokenizer, from its folder."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlx_align.data import ChatTokenizer, wrap_tokenizer
from mlx_align.data.templates import dated
from mlx_align.errors import UsageError


def load_tokenizer(folder: Path, moment: datetime | None = None) -> ChatTokenizer:
    """The tokenizer and chat template of a model folder, with every token the model's files call an end.

    Args:
        folder: the model's.
        moment: whose date a template writes that writes one (`data.templates.dated`); None: today's.

    Raises:
        UsageError: the folder has no usable tokenizer or chat template.
    """
    loader = _auto_tokenizer()
    from huggingface_hub.errors import StrictDataclassError  # of a config.json with wrong types

    try:
        tokenizer = loader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise UsageError(f"the tokenizer cannot be loaded: {error}", where=str(folder)) from None
    if moment is not None:
        tokenizer.chat_template = _dated(tokenizer.chat_template, moment)
    wrapped = wrap_tokenizer(tokenizer)
    return replace(wrapped, stop_ids=wrapped.stop_ids | _declared_ends(folder))


def spare_torch(backend: str | None = None) -> None:
    """Keep transformers from loading torch in a program that computes with another backend, or not at all.

    Where torch is installed, it comes with the first tokenizer and takes longer than all else that is loaded.
    A process that has one of the two already is left as it is, and one that asks for torch later gets it;
    only transformers does without, so this is for a program's own start.
    """
    if backend == "torch" or {"torch", "transformers"} & sys.modules.keys():
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # what Python itself takes for "not there"
    try:
        _auto_tokenizer()
    finally:
        del sys.modules["torch"]


def _auto_tokenizer() -> Any:
    # It would say that PyTorch was not found, which is not needed.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    return AutoTokenizer


def _dated(templates: Any, moment: datetime) -> Any:
    """The template, or each of several by name, with that moment's date; None where there is none."""
    if isinstance(templates, dict):
        return {name: dated(template, moment) for name, template in templates.items()}
    return None if templates is None else dated(templates, moment)


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
