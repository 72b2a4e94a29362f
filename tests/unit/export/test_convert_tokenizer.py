"""A tokenizer's files in GGUF's words: ids, types, special tokens, templates, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_align import embedded
from mlx_align.errors import DataError, UsageError
from mlx_align.export.gguf import pretokenizers, tokenizer
from mlx_align.export.gguf.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

Facts = dict[str, Any]
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
BEGIN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
SENTENCEPIECE: Facts = {
    "added_tokens": [
        {"id": 0, "content": "<unk>", "special": True},
        {"id": 1, "content": "<s>", "special": True},
        {"id": 2, "content": "</s>", "special": True},
        {"id": 9, "content": f"{SPACE}tool{SPACE}", "special": False},
        {"id": 10, "content": "<|end|>", "special": False},
    ],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        ],
    },
    "pre_tokenizer": None,
    "post_processor": BEGIN,
    "model": {
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": True,
        "vocab": {
            token: number
            for number, token in enumerate(["<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "c", "bc", "abc"])
        },
        "merges": [["b", "c"], ["a", "bc"], ["ab", "c"]],
    },
}
TOKENS = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the embedded model's tokenizer files."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(embedded.model_folder() / name, tmp_path / name)
    return tmp_path


def change(file: Path, **facts: Any) -> None:
    """Change keys of a JSON file."""
    old = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(old | facts), encoding="utf-8")


def pieces(folder: Path, rows: int = 12, config: Facts | None = None, **facts: Any) -> tokenizer.Vocabulary:
    """The small tokenizer above with other keys."""
    change(folder / "tokenizer.json", **(SENTENCEPIECE | facts))
    change(folder / "tokenizer_config.json", **(TOKENS if config is None else config))
    return tokenizer.read(folder, rows)


def test_embedded_tokenizer(tiny: Path) -> None:
    found = tokenizer.read(tiny, 1024)
    facts = json.loads((tiny / "tokenizer.json").read_text(encoding="utf-8"))
    assert (found.model, found.pre, found.notes) == ("gpt2", "qwen2", [])
    assert found.tokens[:1021] == list(facts["model"]["vocab"])
    assert found.types == [NORMAL] * 1021 + [CONTROL] * 3
    assert found.merges[:2] == ["i s", "a n"]
    assert len(found.merges) == 765
    assert found.specials == {"eos": 1023, "pad": 1021, "eot": 1023}
    assert (found.add_bos, found.add_eos) == (False, False)
    assert found.templates == {"default": (tiny / "chat_template.jinja").read_text(encoding="utf-8")}


def test_rows_beyond_the_tokens_are_filled(tiny: Path) -> None:
    found = tokenizer.read(tiny, 1030)
    assert found.tokens[1024:] == [f"[PAD{number}]" for number in range(1024, 1030)]
    assert found.types[1024:] == [UNUSED] * 6
    assert len(set(found.tokens)) == 1030


def test_tokens_beyond_the_rows_are_left_out(tiny: Path) -> None:
    found = tokenizer.read(tiny, 1022)
    assert len(found.tokens) == len(found.types) == 1022
    assert any("2 tokens have no row" in note for note in found.notes)
    assert "eos" not in found.specials


def test_sentencepiece(tmp_path: Path) -> None:
    found = pieces(tmp_path)
    assert found.types == [UNKNOWN, CONTROL, CONTROL, BYTE, *[NORMAL] * 5, USER_DEFINED, CONTROL, UNUSED]
    assert found.tokens[9] == " tool "
    assert found.scores[7:9] == [0.0, -1.0]  # "bc" is merged first, then "abc", in whichever way
    assert set(found.scores[:7]) == {-3.0}
    assert (found.model, found.pre, found.merges, found.space_prefix) == ("llama", "default", [], True)
    assert found.specials == {"bos": 1, "eos": 2, "unk": 0, "eot": 2}
    assert (found.add_bos, found.add_eos) == (True, False)


REPLACE = SENTENCEPIECE["normalizer"]["normalizers"][1]


@pytest.mark.parametrize(
    ("normalizer", "scheme", "chat", "expected"),
    [
        (REPLACE, None, False, False),
        (None, "always", False, True),
        (None, "never", False, False),
        (None, "first", False, True),
        (None, "first", True, False),
    ],
)
def test_space_before_a_text(
    normalizer: Facts | None, scheme: str | None, chat: bool, expected: bool, tmp_path: Path
) -> None:
    cutting = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme} if scheme else None
    config = TOKENS | ({"chat_template": "{{ messages }}"} if chat else {})
    found = pieces(tmp_path, config=config, normalizer=normalizer, pre_tokenizer=cutting)
    assert found.space_prefix == expected
    assert bool(found.notes) == (scheme == "first")


@pytest.mark.parametrize(
    ("config", "processor", "expected"),
    [
        ({}, BEGIN, True),
        ({}, {"type": "Sequence", "processors": [{"type": "ByteLevel"}, BEGIN]}, True),
        ({}, None, False),
        ({"add_bos_token": False}, BEGIN, False),
        ({"add_bos_token": True}, None, True),
    ],
)
def test_add_bos(config: Facts, processor: Facts | None, expected: bool, tmp_path: Path) -> None:
    assert pieces(tmp_path, config=TOKENS | config, post_processor=processor).add_bos == expected


def test_bos_that_only_the_post_processor_names(tmp_path: Path) -> None:
    found = pieces(tmp_path, config={"eos_token": "</s>"})
    assert (found.specials["bos"], found.add_bos) == (1, True)


def test_several_ends(tmp_path: Path) -> None:
    change(tmp_path / "generation_config.json", eos_token_id=[10, 2])
    assert pieces(tmp_path).specials == {"bos": 1, "eos": 2, "unk": 0, "eot": 10}
    change(tmp_path / "config.json", eos_token_id=[4, 5, 99], pad_token_id=6)
    found = pieces(tmp_path)
    assert [found.specials[name] for name in ("eos", "eot", "eom", "pad")] == [2, 10, 4, 6]
    assert found.notes == ["of the tokens that end an answer, a GGUF names three: [5] are not among them"]


def test_special_ids_beyond_the_rows(tmp_path: Path) -> None:
    change(tmp_path / "config.json", eos_token_id=99, bos_token_id=99, pad_token_id=99)
    assert pieces(tmp_path, config={}, post_processor=None).specials == {}


def test_named_templates(tiny: Path) -> None:
    (tiny / "chat_template.jinja").unlink()
    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    change(tiny / "tokenizer_config.json", chat_template=named)
    (tiny / "additional_chat_templates").mkdir()
    (tiny / "additional_chat_templates" / "rag.jinja").write_text("three", encoding="utf-8")
    assert tokenizer.read(tiny, 1024).templates == {"default": "one", "tool_use": "two", "rag": "three"}


def test_tokens_that_swallow_spaces(tmp_path: Path) -> None:
    stripped = [{"id": 10, "content": "<|end|>", "special": True, "rstrip": True}]
    found = pieces(tmp_path, added_tokens=SENTENCEPIECE["added_tokens"][:4] + stripped)
    assert not found.strips
    assert found.notes == ["llama.cpp keeps the space beside <|end|>, which the tokenizer drops"]


def without_cutting(facts: Facts) -> None:
    facts["pre_tokenizer"] = None


def with_other_digits(facts: Facts) -> None:
    split = facts["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].replace(r"\p{N}|", r"\p{N}{1,2}|")


def with_whole_words(facts: Facts) -> None:
    facts["model"]["ignore_merges"] = True


def with_a_space_before(facts: Facts) -> None:
    facts["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def removed_rather_than_isolated(facts: Facts) -> None:
    facts["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"


def in_lower_case(facts: Facts) -> None:
    facts["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}


def of_another_kind(facts: Facts) -> None:
    facts["model"]["type"] = "Unigram"


@pytest.mark.parametrize(
    ("change_it", "message"),
    [
        (without_cutting, "as this model's: none"),
        (with_other_digits, r"\\p\{N\}\{1,2\}"),  # the pattern is in the message
        (with_whole_words, "with ignore_merges"),
        (with_a_space_before, "add_prefix_space"),
        (removed_rather_than_isolated, "'Removed'"),
        (in_lower_case, "Lowercase"),
        (of_another_kind, "type Unigram"),
    ],
)
def test_refused(change_it: Callable[[Facts], None], message: str, tiny: Path) -> None:
    facts = json.loads((tiny / "tokenizer.json").read_text(encoding="utf-8"))
    change_it(facts)
    (tiny / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(UsageError, match=message) as raised:
        tokenizer.read(tiny, 1024)
    assert "--base-gguf" in str(raised.value)


def test_spaces_that_are_written_otherwise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not write spaces as SentencePiece"):
        pieces(tmp_path, normalizer=None)


def test_no_cutting_has_two_names() -> None:
    assert len(set(pretokenizers.NAMES.values())) == len(pretokenizers.NAMES)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"model": {"type": "BPE"}}'])
def test_damaged(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        tokenizer.read(tmp_path, 10)
