"""llama.cpp makes the same ids of a text as the model's own tokenizer, and answers a chat in its words."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from mlx_align import embedded
from mlx_align.export.base import Base
from mlx_align.export.gguf import convert, pretokenizers
from mlx_align.export.llama import LlamaReader
from mlx_align.export.provenance import Provenance

PROVENANCE = Provenance("a-run", "orpo", "owner/base", None, "0" * 64, "1" * 64, "2" * 64, 7, "")
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
NASTY = [
    "", " ", "  ", "\n", "\n\n\n", "\t \t\r\n \n", "a", " a", "a ", "  a  b   c    d", "\x00\x01\x7f",
    "0", "007 3.14 1,000,000", "1234567890" * 3, "٣٤٥ Ⅷ ½ ²",
    "don't we'll I'M you'Re 'tis ''", "x=y+z;//#!?...---___", "\\n\\t\"'`", "AbcDEFghI iPhone",
    "end.\n\nNext", "def f(x):\n\treturn x**2  # ok\n\n\n",
    "naïve café Ålesund straße", "Ελληνικά русский עברית العربية", "हिन्दी ไทย 中文字 日本語 한국어",
    "🦙🚀👩\u200d👩\u200d👧🏽 ☺️", "\u200b\ufeff\u00a0\u2003", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﬁ",
    "<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|>b", "<|im_start|><|im_end|> <|im_end|>", "<|im_start",
]  # fmt: skip


def texts_of_samples() -> list[str]:
    """Everything that is said in the sample data, once."""
    files = sorted(embedded.samples_folder().glob("*.jsonl")) + sorted(
        embedded.samples_folder().glob("[!b]*/*.jsonl")
    )
    found: dict[str, None] = {}

    def collect(value: object) -> None:
        if isinstance(value, str):
            found[value] = None
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            collect(item)

    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            collect(json.loads(line))
    return list(found)


def converted(folder: Path, file: Path) -> Path:
    """The new GGUF."""
    convert.write(file, Base.open(folder), None, PROVENANCE, "f16")
    return file


def assert_same_ids(folder: Path, reader: LlamaReader, texts: list[str]) -> None:
    """llama.cpp's ids are those of tokenizer.json."""
    ours = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in texts:
        assert reader.encode(text) == ours.encode(text, add_special_tokens=False).ids, repr(text)


@pytest.fixture(scope="module")
def tiny_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaReader]:
    """The embedded model as f16 in llama.cpp."""
    file = converted(embedded.model_folder(), tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")
    with LlamaReader(file) as reader:
        yield reader


def test_embedded_tokenizer(tiny_chat: LlamaReader) -> None:
    assert_same_ids(embedded.model_folder(), tiny_chat, NASTY)
    texts = texts_of_samples()
    assert len(texts) > 2000
    many = ["<|im_end|>".join(texts[begin : begin + 200]) for begin in range(0, len(texts), 200)]
    assert_same_ids(embedded.model_folder(), tiny_chat, many)


def test_embedded_model_answers_as_in_mlx_lm(tiny_chat: LlamaReader) -> None:
    from mlx_lm import generate, load

    model, tokenizer = load(str(embedded.model_folder()))
    file = embedded.samples_folder() / "preferences" / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    questions = list(dict.fromkeys(row["prompt"] for row in rows))[:50]
    assert len(questions) == 50
    for question in questions:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert tiny_chat.answer(messages, 64) == generate(model, tokenizer, ids, max_tokens=64)


def cutting(steps: tuple[str, ...]) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of tokenizer.json that has these steps."""
    parts: list[pre_tokenizers.PreTokenizer] = []
    for step in steps:
        if step == pretokenizers.DIGITS:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        elif step != pretokenizers.BYTE_LEVEL:
            parts.append(pre_tokenizers.Split(Regex(step), "isolated"))
    parts.append(
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pretokenizers.BYTE_LEVEL in steps)
    )
    return pre_tokenizers.Sequence(parts)


def byte_level(steps: tuple[str, ...], whole_words: bool) -> Tokenizer:
    """A small byte-level tokenizer of the sample data, which has some words that no merging leads to."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = cutting(steps)
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    often = NASTY * 500  # so that their words become tokens, and show if they are cut
    made.train_from_iterator(texts_of_samples()[:200] + often, trainer)
    made.add_tokens([AddedToken("<think>", normalized=False)])
    facts = json.loads(made.to_str())
    facts["model"]["ignore_merges"] = whole_words
    facts["model"]["merges"] = facts["model"]["merges"][:-60]
    return Tokenizer.from_str(json.dumps(facts))


def sentencepiece(chat: bool) -> Tokenizer:
    """A small tokenizer as Llama 2's, or as Gemma's, which puts no space before a text."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", SPACE)
    made.normalizer = spaces if chat else normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous") if chat else None
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, max_token_length=8, show_progress=False
    )
    made.train_from_iterator(texts_of_samples()[:2000], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    facts = json.loads(made.to_str())
    facts["added_tokens"] = facts["added_tokens"][:3]
    order = {left + right: None for left, right in facts["model"]["merges"]}
    facts["model"]["merges"] = [pair for piece in order for pair in splits(piece, facts["model"]["vocab"])]
    return Tokenizer.from_str(json.dumps(facts))


def splits(piece: str, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a piece, as the converter of SentencePiece's files lists them."""
    pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
    known = [pair for pair in pairs if all(part in vocabulary for part in pair)]
    return sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def with_tokenizer(folder: Path, tokenizer: Tokenizer, target: Path, **config: object) -> Path:
    """A model that has another tokenizer."""
    shutil.copytree(folder, target)
    tokenizer.save(str(target / "tokenizer.json"))
    (target / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


@pytest.mark.parametrize(("steps", "whole_words"), pretokenizers.NAMES, ids=pretokenizers.NAMES.values())
def test_pretokenizers(
    steps: tuple[str, ...], whole_words: bool, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = with_tokenizer(folder_of("llama"), byte_level(steps, whole_words), tmp_path / "model")
    file = converted(folder, tmp_path / "model.gguf")
    texts = [*NASTY, "<think>a</think> <think>", " ".join(texts_of_samples()[:200])]
    marked = [text for text in texts if any(unicodedata.category(letter) == "Mn" for letter in text)]
    with LlamaReader(file) as reader:
        if pretokenizers.NAMES[steps, whole_words] not in pretokenizers.WITHOUT_MARKS:
            assert_same_ids(folder, reader, texts)
        else:
            assert_same_ids(folder, reader, [text for text in texts if text not in marked])
            with pytest.raises(AssertionError):
                assert_same_ids(folder, reader, marked)


@pytest.mark.parametrize("chat", [False, True])
def test_sentencepiece(chat: bool, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
    folder = with_tokenizer(folder_of("llama"), sentencepiece(chat), tmp_path / "model", **tokens)
    file = converted(folder, tmp_path / "model.gguf")
    with LlamaReader(file) as reader:
        texts = [*NASTY[1:], "<s>a</s> b", *texts_of_samples()[:20], " ".join(texts_of_samples()[:300])]
        assert_same_ids(folder, reader, texts)


def test_special_tokens_that_swallow_spaces(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    made = sentencepiece(chat=False)
    swallowing = [AddedToken(text, rstrip=True, special=True) for text in ("</s>", "<|user|>", "<|end|>")]
    made.add_special_tokens([*swallowing, AddedToken("<|endoftext|>", special=True)])
    facts = json.loads(made.to_str())
    facts["added_tokens"] = [token | {"rstrip": token["id"] == 2} if token["id"] < 3 else token
                             for token in facts["added_tokens"]]  # fmt: skip
    made = Tokenizer.from_str(json.dumps(facts))
    folder = with_tokenizer(folder_of("llama"), made, tmp_path / "model", eos_token="</s>", bos_token="<s>")
    file = converted(folder, tmp_path / "model.gguf")
    with LlamaReader(file) as reader:
        assert_same_ids(folder, reader, ["<|user|>\n hi<|end|>\n<|endoftext|> a</s>  b<s> c", *NASTY[1:8]])
