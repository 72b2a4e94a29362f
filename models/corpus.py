"""The training text of the tiny chat model: conversations from the world, as token ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tokenizers import Tokenizer

from models.tokenizer import END, prompt_text
from models.world import KINDS, Item, sample

SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "Answer the question.",
    "You are a small chat model.",
    "Help the user.",
    "Answer in one short sentence.",
)
SYSTEM_SHARE = 0.08
SECOND_TURN_SHARE = 0.08


@dataclass(frozen=True)
class Mix:
    """What a stretch of training text is made of.

    `weights` are those of `KINDS`. `crisp_sums` replaces the crisp share of arithmetic items; None
    keeps the share that each phrasing has.
    """

    weights: tuple[float, float, float]
    crisp_sums: float | None


LEARN_MIX = Mix(weights=(0.2, 0.6, 0.2), crisp_sums=0.85)
"""The first stretch: mostly correct sums, because careless ones teach no arithmetic."""

FINAL_MIX = Mix(weights=(0.3, 0.45, 0.25), crisp_sums=None)
"""The last stretch sets the manners: crisp and sloppy about equally often."""


@dataclass(frozen=True)
class Example:
    """Token ids of a conversation; `scored[i]` says whether token i is part of an answer."""

    ids: list[int]
    scored: list[bool]


def answer(rng: Random, item: Item, mix: Mix) -> str:
    """Choose the manner of one training answer."""
    share = item.crisp_share
    if item.kind == "arithmetic" and mix.crisp_sums is not None:
        share = mix.crisp_sums
    return item.crisp if rng.random() < share else item.sloppy


def conversation(rng: Random, mix: Mix) -> list[dict[str, str]]:
    """Draw one conversation from the training split: mostly a question and its answer."""
    messages: list[dict[str, str]] = []
    if rng.random() < SYSTEM_SHARE:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_MESSAGES)})
    for _ in range(2 if rng.random() < SECOND_TURN_SHARE else 1):
        item = sample(rng, rng.choices(KINDS, mix.weights)[0])
        messages.append({"role": "user", "content": item.prompt})
        messages.append({"role": "assistant", "content": answer(rng, item, mix)})
    return messages


def pieces(messages: list[dict[str, str]]) -> list[tuple[str, bool]]:
    """Cut a rendered conversation into (text, whether it is scored)."""
    cut: list[tuple[str, bool]] = []
    rendered = ""
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = prompt_text(messages[:i])
            cut.append((prompt[len(rendered) :], False))
            cut.append((message["content"] + END, True))
            rendered = prompt + message["content"] + END
    return cut


def examples(rng: Random, tokenizer: Tokenizer, mix: Mix, count: int) -> list[Example]:
    """Draw and encode `count` conversations."""
    cuts = [pieces(conversation(rng, mix)) for _ in range(count)]
    flat = [text for cut in cuts for text, _ in cut]
    encoded = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
    made = []
    for cut in cuts:
        ids: list[int] = []
        scored: list[bool] = []
        for _, is_scored in cut:
            piece = next(encoded).ids
            ids += piece
            scored += [is_scored] * len(piece)
        made.append(Example(ids, scored))
    return made


def batches(rng: Random, pool: list[Example], size: int) -> Iterator[list[Example]]:
    """Cut a pool into batches of similar length, in random order."""
    ordered = sorted(pool, key=lambda example: len(example.ids))
    starts = list(range(0, len(ordered), size))
    rng.shuffle(starts)
    for start in starts:
        yield ordered[start : start + size]


def tokenizer_texts(rng: Random, count: int) -> Iterator[str]:
    """Draw the text that the tokenizer is trained on, special tokens left out."""
    for _ in range(count):
        for message in conversation(rng, FINAL_MIX):
            yield f"{message['role']}\n"
            yield message["content"]
