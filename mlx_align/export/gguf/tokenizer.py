"""A model's tokenizer as GGUF has it, from the files of its folder alone.

Two kinds are written here: byte-level pairs ("gpt2": tokens, merges and the name of a pre-tokenizer) and
SentencePiece's pairs with byte fallback ("llama": tokens and scores, from which the pairs follow).
llama.cpp does not normalise a text, so NFC, which changes no text that is composed already, is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_align.errors import DataError, UsageError
from mlx_align.export.gguf import pretokenizers, special_tokens

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""The values of tokenizer.ggml.token_type."""

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece writes a space within a token."""

NOT_STRIPPING = frozenset({"<unk>", "<s>", "<|endoftext|>"})
"""Phi 3's special tokens that leave the space after them alone; llama.cpp knows them by these texts."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says about a tokenizer.

    Attributes:
        model: "gpt2" or "llama", the algorithm.
        pre: the name of the pre-tokenizer.
        tokens: the text of every id, as many as the embedding has rows.
        types: a token_type for each.
        scores: for "llama", larger is merged earlier; empty for "gpt2".
        merges: for "gpt2", pairs in the order of merging; empty for "llama".
        specials: "bos", "eos", "eot", "eom", "unk", "pad" -> id, those that there are.
        add_bos, add_eos: whether a text gets them at its ends.
        space_prefix: for "llama", whether a text gets a space before it.
        templates: chat templates by name; "default" is the one that is used.
        strips: whether special tokens swallow the space after them, as Phi 3's do.
        notes: what llama.cpp will do otherwise.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    specials: dict[str, int]
    add_bos: bool
    add_eos: bool
    space_prefix: bool
    templates: dict[str, str]
    strips: bool
    notes: list[str] = field(default_factory=list)

    def put(self, writer: Any) -> None:
        """Add the keys to a gguf.GGUFWriter."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "llama":
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.space_prefix)
        else:
            writer.add_token_merges(self.merges)
        for name, token in self.specials.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.templates:
            writer.add_chat_template(
                [{"name": name, "template": text} for name, text in sorted(self.templates.items())]
            )


def read(folder: Path, rows: int) -> Vocabulary:
    """Read tokenizer.json and the files beside it.

    Args:
        folder: the model's folder.
        rows: rows of the embedding; ids without a token get one that is marked as unused.

    Raises:
        DataError: tokenizer.json is missing or damaged.
        UsageError: llama.cpp has no such tokenizer.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise DataError(
            "the model has no tokenizer.json",
            where=str(folder),
            hint="Load it once with transformers and save it: a fast tokenizer writes this file.",
        )
    facts, config = _table(file), _table(folder / "tokenizer_config.json")
    try:
        return _vocabulary(folder, facts, config, rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"tokenizer.json has another form than expected: {error!r}", where=str(file)
        ) from None


def _vocabulary(folder: Path, facts: Mapping[str, Any], config: Mapping[str, Any], rows: int) -> Vocabulary:
    if facts["model"]["type"] != "BPE":
        raise _unknown(f"a tokenizer of the type {facts['model']['type']}")
    sentencepiece = bool(facts["model"].get("byte_fallback"))
    notes: list[str] = []
    tokens, types = _tokens(facts, rows, sentencepiece, notes)
    ids = {text: number for number, text in enumerate(tokens)}
    templates = _templates(folder, config)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in facts["model"]["merges"]]
    declared = [_table(folder / name) for name in ("generation_config.json", "config.json")]
    specials = special_tokens.find(facts, config, declared, ids, notes)
    before, after = special_tokens.around(facts)
    pre = "default" if sentencepiece else pretokenizers.name_of(facts)
    if not sentencepiece:
        _check_normalizer(facts.get("normalizer"))
    if pre in pretokenizers.WITHOUT_MARKS:
        notes.append(
            "llama.cpp cuts words that have combining marks (Hindi, Thai) otherwise than the tokenizer"
        )
    return Vocabulary(
        model="llama" if sentencepiece else "gpt2",
        pre=pre,
        tokens=tokens,
        types=types,
        scores=_scores(tokens, merges) if sentencepiece else [],
        merges=[] if sentencepiece else merges,
        specials=specials,
        add_bos="bos" in specials and _flag(config, "add_bos_token", before == specials["bos"]),
        add_eos="eos" in specials and _flag(config, "add_eos_token", after == specials["eos"]),
        space_prefix=sentencepiece and _space_prefix(facts, bool(templates), notes),
        templates=templates,
        strips=_strips(facts, notes),
        notes=notes,
    )


def _tokens(
    facts: Mapping[str, Any], rows: int, sentencepiece: bool, notes: list[str]
) -> tuple[list[str], list[int]]:
    """The text and the type of every id below `rows`."""
    tokens, types = [f"[PAD{number}]" for number in range(rows)], [UNUSED] * rows
    beyond = 0
    for text, number in facts["model"]["vocab"].items():
        if number < rows:
            is_byte = sentencepiece and BYTE_TOKEN.fullmatch(text)
            tokens[number], types[number] = text, BYTE if is_byte else NORMAL
        else:
            beyond += 1
    for token in facts.get("added_tokens") or []:
        number, text = token["id"], token["content"]
        if number >= rows:
            beyond += 1
            continue
        control = token["special"] or (text.startswith("<|") and text.endswith("|>"))
        tokens[number] = text if control or not sentencepiece else text.replace(SPACE, " ")
        types[number] = CONTROL if control else USER_DEFINED
    unknown = facts["model"].get("unk_token")
    if unknown in tokens:
        types[tokens.index(unknown)] = UNKNOWN
    if beyond:
        notes.append(f"{beyond} tokens have no row in the embedding and were left out of the GGUF")
    return tokens, types


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece's scores: what is merged first has the largest; what is never merged the smallest."""
    first: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        first.setdefault(pair.replace(" ", ""), rank)
    return [-float(first.get(text, len(merges))) for text in tokens]


def _space_prefix(facts: Mapping[str, Any], chats: bool, notes: list[str]) -> bool:
    """Whether llama.cpp should put a space before a text (it then does so after every special token too)."""
    normalizer, cutting = facts.get("normalizer") or {}, facts.get("pre_tokenizer") or {}
    steps = [normalizer, *(normalizer.get("normalizers") or [])]
    if any(step.get("type") == "Prepend" and step.get("prepend") == SPACE for step in steps):
        return True
    if cutting.get("type") == "Metaspace" and cutting.get("replacement") == SPACE:
        scheme = cutting.get("prepend_scheme", "always")
        if scheme == "first":
            notes.append(
                "the tokenizer puts a space before a text but not after a special token; llama.cpp puts "
                + ("none in either place, which is right in a chat" if chats else "one in both places")
            )
        return bool(scheme == "always" or (scheme == "first" and not chats))
    if any(step.get("type") == "Replace" and step.get("content") == SPACE for step in steps):
        return False
    raise _unknown("a byte-fallback tokenizer that does not write spaces as SentencePiece does")


def _strips(facts: Mapping[str, Any], notes: list[str]) -> bool:
    """Whether the special tokens swallow what llama.cpp lets Phi 3's swallow."""
    added = facts.get("added_tokens") or []
    names = {token["content"] for token in added}
    stripping = {token["content"] for token in added if token.get("rstrip")}
    if "</s>" in stripping and names - stripping == NOT_STRIPPING:
        return True
    odd = sorted(stripping | {token["content"] for token in added if token.get("lstrip")})
    if odd:
        notes.append(f"llama.cpp keeps the space beside {', '.join(odd)}, which the tokenizer drops")
    return False


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name, from wherever a version of transformers puts them."""
    found: dict[str, str] = {}
    declared = config.get("chat_template")
    if isinstance(declared, str):
        found["default"] = declared
    elif isinstance(declared, list):
        found |= {item["name"]: item["template"] for item in declared}
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = file.read_text(encoding="utf-8")
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        found["default"] = alone.read_text(encoding="utf-8")
    return found


def _check_normalizer(normalizer: Mapping[str, Any] | None) -> None:
    kinds = [part["type"] for part in (normalizer or {}).get("normalizers") or [normalizer] if part]
    odd = [kind for kind in kinds if kind != "NFC"]
    if odd:
        raise _unknown(f"a tokenizer that changes a text first ({', '.join(odd)})")


def _flag(config: Mapping[str, Any], key: str, otherwise: bool) -> bool:
    return config[key] if isinstance(config.get(key), bool) else otherwise


def _unknown(what: str) -> UsageError:
    return UsageError(
        f"llama.cpp cannot be told of {what}",
        where="tokenizer.json",
        hint="If a GGUF of the base model exists, put the adapter into that: --base-gguf FILE.",
    )


def _table(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"the file is not JSON: {error}", where=str(file)) from None
    if not isinstance(table, dict):
        raise DataError("the file is not a table of settings", where=str(file))
    return table
