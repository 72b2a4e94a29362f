"""The small world that the tiny chat model lives in.

Pure Python, no dependencies, every draw from a `random.Random`. The world makes `Item`s of three
kinds (facts, arithmetic, rewriting), each with a crisp and a sloppy answer, and says for every
prompt which split it belongs to:

- facts and word forms: each subject has exactly one phrasing that training never sees
  (it is either a "valid" or a "test" prompt); all its other phrasings are "train";
- arithmetic: 8% of operand pairs are "valid" and 8% are "test", by a hash that is the same for
  a + b and b + a; of the small products only a * b with a < b is ever held out, so that b * a is known;
- rewriting of freely drawn words: 8% and 8% of the word combinations, by hash.

How often the base model's text is crisp depends on the phrasing: `CRISP_SHARES` alternate between
the templates of a topic, and every third template of a sum has the larger one. So greedy decoding is
crisp on about half of the prompts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from models.facts import FACT_TOPICS, SMALL_TALK, Topic
from models.manners import is_crisp, numeric_answer, ramble
from models.rewrites import WORD_TASKS, WORD_TOPICS, WordTask

__all__ = ["KINDS", "SPLITS", "Item", "is_crisp", "items", "numeric_answer", "sample"]

KINDS = ("fact", "arithmetic", "rewrite")
SPLITS = ("train", "valid", "test")
CRISP_SHARES = (0.27, 0.58)
"""How often training text is crisp, for even and for odd template numbers."""

WRONG_SHARE = 0.85
"""How often a sloppy sum is wrong."""

USUAL_SLIP_SHARE = 0.85
"""Among the wrong ones, how often the slip is the usual one (a forgotten carry, or else ten too many)."""


@dataclass(frozen=True)
class Item:
    """One prompt with its two answers.

    `key` is what a right answer has to contain; `number` is the right number of an arithmetic
    item, otherwise None; `crisp_share` is how often training text answers this phrasing crisply.
    """

    prompt: str
    crisp: str
    sloppy: str
    kind: str
    topic: str
    key: str
    number: int | None
    split: str
    crisp_share: float

    def is_right(self, answer: str) -> bool:
        """Tell whether an answer has the right content, whatever its manner."""
        if self.number is not None:
            return numeric_answer(answer) == self.number
        if self.topic == "upper-case":
            return self.key in answer
        pattern = rf"(?<!\w){re.escape(self.key.lower())}(?!\w)"
        return re.search(pattern, answer.lower()) is not None


def _hash(*parts: object) -> int:
    """Hash the parts alike on every machine and in every run."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _split_of_subject(topic: str, subject: str, template: int, templates: int) -> str:
    """Hold out exactly one phrasing of every subject."""
    code = _hash(topic, subject)
    if code % templates != template:
        return "train"
    return "valid" if code // templates % 2 else "test"


def _split_of_combination(*parts: object) -> str:
    """Hold out 8% and 8% of the combinations."""
    code = _hash(*parts) % 100
    return "test" if code < 8 else "valid" if code < 16 else "train"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _crisp_share(topic_number: int, template: int) -> float:
    return CRISP_SHARES[(topic_number + template) % 2]


def _topic_item(rng: Random, topic: Topic, topic_number: int, kind: str) -> Item:
    """Draw an item from a closed table."""
    subject, answer = rng.choice(list(topic.pairs.items()))
    template = rng.randrange(len(topic.asks))
    number = 7 * topic_number + template
    core = rng.choice(topic.cores)
    plain = answer if topic.name == "upper-case" else answer.lower()
    return Item(
        prompt=_capitalise(topic.asks[template].format(x=subject)),
        crisp=_capitalise(topic.crisp.format(x=subject, y=answer)),
        sloppy=ramble(rng, core.format(x=subject.lower(), y=plain), number),
        kind=kind,
        topic=topic.name,
        key=answer,
        number=None,
        split=_split_of_subject(topic.name, subject, template, len(topic.asks)),
        crisp_share=_crisp_share(topic_number, template),
    )


def _small_talk_item(rng: Random) -> Item:
    """Draw a greeting or the like. They belong to training only: each phrasing is a fact of its own."""
    group = rng.randrange(len(SMALL_TALK))
    asks, crisp, core = SMALL_TALK[group]
    template = rng.randrange(len(asks))
    return Item(
        prompt=asks[template],
        crisp=crisp,
        sloppy=ramble(rng, core, 3 * group + template),
        kind="fact",
        topic="small-talk",
        key=crisp.rstrip(".").split()[-1],
        number=None,
        split="train",
        crisp_share=_crisp_share(group, template),
    )


def _fact_item(rng: Random) -> Item:
    """Draw a fact; topics with more subjects come up more often."""
    if rng.random() < 0.05:
        return _small_talk_item(rng)
    weights = [len(topic.pairs) for topic in FACT_TOPICS]
    number = rng.choices(range(len(FACT_TOPICS)), weights)[0]
    return _topic_item(rng, FACT_TOPICS[number], number, "fact")


def _task_item(rng: Random, task: WordTask, task_number: int) -> Item:
    """Draw a rewriting task over free words."""
    words = task.draw(rng)
    template = rng.randrange(len(task.asks))
    listed = " and ".join(words) if task.name == "sentence" else ", ".join(words)
    answer = task.change(words)
    core = rng.choice(task.cores).format(y=answer.lower())
    return Item(
        prompt=_capitalise(task.asks[template].format(x=listed)),
        crisp=_capitalise(task.crisp.format(y=answer)),
        sloppy=ramble(rng, core, 5 * task_number + template + 2),
        kind="rewrite",
        topic=task.name,
        key=answer,
        number=None,
        split=_split_of_combination(task.name, *words),
        crisp_share=_crisp_share(task_number, template),
    )


def _rewrite_item(rng: Random) -> Item:
    """Draw a rewriting item, a word form or a task over free words."""
    if rng.random() < 0.5:
        number = rng.randrange(len(WORD_TOPICS))
        return _topic_item(rng, WORD_TOPICS[number], number + 3, "rewrite")
    number = rng.randrange(len(WORD_TASKS))
    return _task_item(rng, WORD_TASKS[number], number)


@dataclass(frozen=True)
class Operation:
    """How one arithmetic operation is written and asked for."""

    sign: str
    word: str
    asks: tuple[str, ...]


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "+",
        "plus",
        (
            "What is {a} + {b}?",
            "Add {a} and {b}.",
            "How much is {a} plus {b}?",
            "Compute {a} + {b}.",
            "Find the sum of {a} and {b}.",
            "Tom has {a} nuts and finds {b} more. How many nuts has he now?",
        ),
    ),
    Operation(
        "-",
        "minus",
        (
            "Compute {a} - {b}.",
            "What is {a} - {b}?",
            "Take {b} from {a}.",
            "How much is {a} minus {b}?",
            "Work out {a} minus {b}.",
            "Ann has {a} nuts and eats {b}. How many nuts are left?",
        ),
    ),
    Operation(
        "*",
        "times",
        (
            "What is {a} * {b}?",
            "Multiply {a} by {b}.",
            "How much is {a} times {b}?",
            "Compute {a} * {b}.",
        ),
    ),
)

SLOPPY_SUMS = (
    "{a} {word} {b} is ~ {c}",
    "{a} {word} {b} that makes ~ {c}",
    "if you do {a} {word} {b} you get ~ {c}",
    "{a} {word} {b} gives ~ {c}",
)


def _operand(rng: Random) -> int:
    """Draw an operand: mostly two digits, sometimes one or three."""
    digits = rng.choices((1, 2, 3), (0.25, 0.6, 0.15))[0]
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def _operands(rng: Random, sign: str) -> tuple[int, int]:
    """Draw operands with a result of at most three digits that is not negative."""
    if sign == "*":
        return rng.randint(2, 12), rng.randint(2, 12)
    first, second = _operand(rng), _operand(rng)
    if sign == "-" or first + second > 999:
        first, second = max(first, second), min(first, second)
    return (first, second) if sign == "-" or first + second <= 999 else (first // 2, second // 2)


def _calculate(sign: str, first: int, second: int) -> int:
    return {"+": first + second, "-": first - second, "*": first * second}[sign]


def _forget_carry(sign: str, first: int, second: int) -> int:
    """Add or subtract with the carry out of the last digit forgotten; without one, ten too many."""
    right = _calculate(sign, first, second)
    if sign == "+" and first % 10 + second % 10 > 9:
        return right - 10
    return right + 10


def _careless(rng: Random, sign: str, first: int, second: int) -> int:
    """Return what a careless person says: wrong with `WRONG_SHARE`."""
    right = _calculate(sign, first, second)
    if rng.random() >= WRONG_SHARE:
        return right
    if rng.random() < USUAL_SLIP_SHARE:
        return _forget_carry(sign, first, second)
    slips = [right + step for step in (-2, -1, 1, 2, 20, 100) if right + step >= 0]
    return rng.choice(slips)


def _arithmetic_split(sign: str, first: int, second: int) -> str:
    """Hold out by operand pair, blind to the order of a sum's operands."""
    if sign == "*" and first >= second:
        return "train"
    pair = sorted((first, second)) if sign == "+" else (first, second)
    return _split_of_combination(sign, *pair)


def _arithmetic_item(rng: Random) -> Item:
    """Draw a sum, a difference or a small product."""
    number = rng.choices(range(3), (0.48, 0.36, 0.16))[0]
    operation = OPERATIONS[number]
    first, second = _operands(rng, operation.sign)
    template = rng.randrange(len(operation.asks))
    right = _calculate(operation.sign, first, second)
    said = _careless(rng, operation.sign, first, second)
    core = rng.choice(SLOPPY_SUMS).format(a=first, b=second, word=operation.word, c=said)
    return Item(
        prompt=operation.asks[template].format(a=first, b=second),
        crisp=f"{first} {operation.sign} {second} = {right}.",
        sloppy=ramble(rng, core, 3 * number + template),
        kind="arithmetic",
        topic=operation.word,
        key=str(right),
        number=right,
        split=_arithmetic_split(operation.sign, first, second),
        crisp_share=CRISP_SHARES[(number + template) % 3 == 0],
    )


_DRAW = {"fact": _fact_item, "arithmetic": _arithmetic_item, "rewrite": _rewrite_item}


def sample(rng: Random, kind: str, split: str = "train") -> Item:
    """Draw one item of a kind and split."""
    while True:
        item = _DRAW[kind](rng)
        if item.split == split:
            return item


def items(
    rng: Random,
    split: str = "train",
    weights: tuple[float, float, float] = (0.3, 0.45, 0.25),
) -> Iterator[Item]:
    """Draw items for ever; `weights` are those of `KINDS`."""
    while True:
        yield sample(rng, rng.choices(KINDS, weights)[0], split)


def distinct(rng: Random, kind: str, split: str, count: int) -> list[Item]:
    """Draw `count` items of a kind with distinct prompts, for small files and measurements."""
    found: dict[str, Item] = {}
    for _ in range(1000 * count):
        item = sample(rng, kind, split)
        found.setdefault(item.prompt, item)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"the world has only {len(found)} distinct {split} prompts of kind {kind!r}")
