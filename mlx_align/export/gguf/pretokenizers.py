r"""Which of llama.cpp's pre-tokenizers cuts a text as a tokenizer.json does.

Byte-level tokenizers cut a text into words before any pair is merged. llama.cpp has the cutting in its own
code, under names; a file only says the name. The same name also says whether a word that is a token stays
whole (tokenizer.json's `ignore_merges`), so both are looked up together. A name that is almost right gives
other ids for some texts and nothing notices, so what is not in the table is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_align.errors import UsageError

BYTE_LEVEL, DIGITS = "ByteLevel", "Digits"
"""Steps that have no pattern of their own: GPT-2's cutting, and every digit by itself."""

_SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_EDGE = r"[^\r\n\p{L}\p{N}]?"

ONE_DIGIT = _SUFFIXES + "|" + _EDGE + r"\p{L}+|\p{N}" + _REST
"""Qwen 2, 2.5 and 3."""
THREE_DIGITS = _SUFFIXES + "|" + _EDGE + r"\p{L}+|\p{N}{1,3}" + _REST
"""Llama 3, and with merges Phi 4."""
WITH_MARKS = (
    _SUFFIXES + "|" + _EDGE + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen 3.5."""
BY_CASE = f"{_EDGE}{_UPPER}*{_LOWER}+|{_EDGE}{_UPPER}+{_LOWER}*" + r"|\p{N}" + _REST_SLASH
"""Mistral Nemo and later ("tekken")."""
BY_CASE_WITH_SUFFIXES = (
    f"{_EDGE}{_UPPER}*{_LOWER}+{_SUFFIXES}?|{_EDGE}{_UPPER}+{_LOWER}*{_SUFFIXES}?"
    + r"|\p{N}{1,3}"
    + _REST_SLASH
)
"""GPT-4o, Phi 4 mini."""

NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((ONE_DIGIT,), False): "qwen2",
    ((THREE_DIGITS,), True): "llama-bpe",
    ((THREE_DIGITS,), False): "smaug-bpe",
    ((WITH_MARKS,), False): "qwen35",
    ((BY_CASE,), True): "tekken",
    ((BY_CASE_WITH_SUFFIXES,), False): "gpt-4o",
    ((BYTE_LEVEL,), False): "gpt-2",
    ((DIGITS, BYTE_LEVEL), False): "smollm",
}
"""(the steps, ignore_merges) -> the value of tokenizer.ggml.pre."""

WITHOUT_MARKS = frozenset({"tekken", "gpt-4o"})
"""Names under which llama.cpp was seen to cut words at combining marks, and the tokenizer does not."""


def name_of(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer cuts a text.

    Args:
        tokenizer: the contents of tokenizer.json.

    Raises:
        UsageError: llama.cpp has no such cutting, or it is not known here; the message shows the pattern.
    """
    steps = tuple(step for part in _parts(tokenizer.get("pre_tokenizer")) for step in _steps(part))
    whole_words = bool(tokenizer["model"].get("ignore_merges"))
    if (steps, whole_words) not in NAMES:
        shown = " then ".join(steps) or "none"
        raise UsageError(
            f"no pre-tokenizer of llama.cpp is known to cut a text as this model's: {shown}"
            + (" (with ignore_merges)" if whole_words else ""),
            where="tokenizer.json, key 'pre_tokenizer'",
            hint="If a GGUF of the base model exists, put the adapter into that: --base-gguf FILE.",
        )
    return NAMES[steps, whole_words]


def _parts(pre_tokenizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return list(pre_tokenizer["pretokenizers"])
    return [pre_tokenizer]


def _steps(part: Mapping[str, Any]) -> list[str]:
    """A part's cutting in the words of the table; what the table does not know stays readable."""
    kind = part["type"]
    if kind == "ByteLevel" and not part.get("add_prefix_space"):
        return [BYTE_LEVEL] if part.get("use_regex", True) else []
    if kind == "Digits" and part.get("individual_digits"):
        return [DIGITS]
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        pattern: Mapping[str, str] = part["pattern"]
        return [pattern["Regex"] if "Regex" in pattern else repr(pattern)]
    return [repr(dict(part))]
