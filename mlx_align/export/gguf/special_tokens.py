"""Which ids begin, end and fill a text, from all the places where a model's files may say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Table = Mapping[str, Any]

ENDS = ("eos", "eot", "eom")
"""What GGUF calls the tokens that end an answer, in the order in which a model's are given these names."""


def find(
    facts: Table, config: Table, declared: Sequence[Table], ids: Mapping[str, int], notes: list[str]
) -> dict[str, int]:
    """The special ids by GGUF's names: "bos", "eos", "eot", "eom", "unk", "pad", those that there are.

    Args:
        facts: tokenizer.json.
        config: tokenizer_config.json, which says it by texts.
        declared: generation_config.json and config.json, which say it by ids.
        ids: the tokens' texts -> ids.
        notes: gets a sentence if a GGUF cannot name all.
    """
    found = {
        name: ids[text]
        for name in ("bos", "eos", "unk", "pad")
        if (text := _text(config.get(f"{name}_token"))) is not None and text in ids
    }
    ends = [found["eos"]] if "eos" in found else []
    for table in declared:
        said = table.get("eos_token_id")
        ends += said if isinstance(said, list) else [] if said is None else [said]
        for name in ("bos", "pad"):
            number = table.get(f"{name}_token_id")
            if isinstance(number, int) and number < len(ids):
                found.setdefault(name, number)
    ends = list(dict.fromkeys(end for end in ends if end < len(ids)))
    before, _ = around(facts)
    if before is not None:
        found.setdefault("bos", before)
    if len(ends) > len(ENDS):
        notes.append(f"of the tokens that end an answer, a GGUF names three: {ends[3:]} are not among them")
    found |= dict(zip(ENDS, ends, strict=False))
    if "eos" in found:
        found.setdefault("eot", found["eos"])  # else llama.cpp takes a token whose text looks like one
    return found


def around(facts: Table) -> tuple[int | None, int | None]:
    """The ids that the post-processor puts before and after a text."""
    processor = facts.get("post_processor") or {}
    for part in processor.get("processors") or [processor]:
        if part.get("type") == "TemplateProcessing":
            first, last = part["single"][0], part["single"][-1]
            return _special_id(part, first), _special_id(part, last)
    return None, None


def _special_id(part: Table, piece: Table) -> int | None:
    if "SpecialToken" not in piece:
        return None
    number: int = part["special_tokens"][piece["SpecialToken"]["id"]]["ids"][0]
    return number


def _text(token: Any) -> str | None:
    """A special token of tokenizer_config.json: its text, or a table with the text in it."""
    text: str | None = token.get("content") if isinstance(token, dict) else token
    return text
