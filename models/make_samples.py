"""Write data_samples/: a good file for every row shape, and broken/ with a file for every mistake.

    python -m models.make_samples

The files depend on the world and the seed alone: running it again gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random
from typing import Any

from models.broken_samples import write_broken
from models.corpus import SYSTEM_MESSAGES
from models.world import Item, distinct, sample

Row = dict[str, Any]

SEED = 11
PREFERENCE_ROWS = {"train": 1200, "valid": 160, "test": 240}
SFT_ROWS = {"train": 400, "valid": 60}
PROMPT_ROWS = {"train": 1000, "valid": 200}
SMALL_FILE_ROWS = 60
GSM8K_ROWS = 8


def mixed(rng: Random, split: str, count: int) -> list[Item]:
    """Draw distinct prompts of all three kinds, shuffled: 35% facts, 35% sums, 30% rewriting."""
    facts, sums = round(0.35 * count), round(0.35 * count)
    drawn = [
        *distinct(rng, "fact", split, facts),
        *distinct(rng, "arithmetic", split, sums),
        *distinct(rng, "rewrite", split, count - facts - sums),
    ]
    rng.shuffle(drawn)
    return drawn


def user(text: str) -> Row:
    """Make a message of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    """Make a message of the assistant."""
    return {"role": "assistant", "content": text}


def preference(item: Item) -> Row:
    """Make a pair of strings."""
    return {"prompt": item.prompt, "chosen": item.crisp, "rejected": item.sloppy}


def conversational(rng: Random, item: Item, number: int) -> Row:
    """Make a pair of message lists: every third has a system message, every second an earlier turn."""
    prompt: list[Row] = []
    if number % 3 == 0:
        prompt.append({"role": "system", "content": rng.choice(SYSTEM_MESSAGES)})
    if number % 2 == 0:
        earlier = sample(rng, "fact")
        prompt += [user(earlier.prompt), assistant(earlier.crisp)]
    prompt.append(user(item.prompt))
    return {
        "prompt": prompt,
        "chosen": [assistant(item.crisp)],
        "rejected": [assistant(item.sloppy)],
    }


def implicit(item: Item) -> Row:
    """Make a pair of whole conversations that share their prompt."""
    return {
        "chosen": [user(item.prompt), assistant(item.crisp)],
        "rejected": [user(item.prompt), assistant(item.sloppy)],
    }


def messages(rng: Random, item: Item, number: int) -> Row:
    """Make one whole conversation, every second with an earlier turn."""
    turns: list[Row] = []
    if number % 2 == 0:
        earlier = sample(rng, "fact")
        turns += [user(earlier.prompt), assistant(earlier.crisp)]
    return {"messages": [*turns, user(item.prompt), assistant(item.crisp)]}


def gsm8k(item: Item) -> Row:
    """Make a question in the manner of GSM8K, whose answers end in "#### number"."""
    return {"question": item.prompt, "answer": f"{item.crisp}\n#### {item.number}"}


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write one JSON object a line, in UTF-8, with line feeds on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8"))


def write_good(out: Path, seed: int) -> None:
    """Write every good file. Each has its own generator, so that one can change without the others."""
    for split, count in PREFERENCE_ROWS.items():
        drawn = mixed(Random(f"{seed} preferences {split}"), split, count)
        write_rows(out / "preferences" / f"{split}.jsonl", [preference(i) for i in drawn])
    for split, count in SFT_ROWS.items():
        drawn = mixed(Random(f"{seed} sft {split}"), split, count)
        rows = [{"prompt": item.prompt, "completion": item.crisp} for item in drawn]
        write_rows(out / "sft" / f"{split}.jsonl", rows)
    for split, count in PROMPT_ROWS.items():
        drawn = distinct(Random(f"{seed} prompts {split}"), "arithmetic", split, count)
        rows = [{"prompt": item.prompt, "answer": item.key} for item in drawn]
        write_rows(out / "prompts" / f"{split}.jsonl", rows)
    rng = Random(f"{seed} small files")
    few = mixed(rng, "train", SMALL_FILE_ROWS)
    chats = [conversational(rng, item, n) for n, item in enumerate(few)]
    write_rows(out / "preferences-conversational.jsonl", chats)
    write_rows(out / "preferences-implicit.jsonl", [implicit(item) for item in few])
    write_rows(out / "sft-messages.jsonl", [messages(rng, item, n) for n, item in enumerate(few)])
    sums = distinct(rng, "arithmetic", "train", GSM8K_ROWS)
    write_rows(out / "prompts" / "gsm8k-style.jsonl", [gsm8k(item) for item in sums])


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description="Write the sample data.")
    parser.add_argument("--out", type=Path, default=Path("data_samples"))
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    write_good(asked.out, asked.seed)
    write_broken(asked.out / "broken", asked.seed)


if __name__ == "__main__":
    main()
