"""Measure what the tiny chat model does on prompts that its training never saw."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.world import KINDS, Item, distinct, is_crisp

PROMPTS_PER_KIND = 150
MEASURE_SEED = 1234
MAX_NEW_TOKENS = 64
BATCH = 50


def held_out_prompts(per_kind: int = PROMPTS_PER_KIND, seed: int = MEASURE_SEED) -> list[Item]:
    """Draw the held-out test prompts that the base rates are measured on."""
    rng = Random(seed)
    return [item for kind in KINDS for item in distinct(rng, kind, "test", per_kind)]


def answers(model: Any, tokenizer: Any, prompts: list[str], temperature: float) -> list[str]:
    """Answer prompts, greedily at temperature 0."""
    tokenizer.padding_side = "left"
    said: list[str] = []
    for start in range(0, len(prompts), BATCH):
        chats = [[{"role": "user", "content": p}] for p in prompts[start : start + BATCH]]
        texts = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.no_grad():
            out = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=MAX_NEW_TOKENS,
                **(how if temperature > 0 else {"do_sample": False}),
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        said += tokenizer.batch_decode(new, skip_special_tokens=True)
    return said


def rates(items: list[Item], said: list[str]) -> dict[str, Any]:
    """Count crisp and right answers, in total and for each kind."""

    def share(values: list[bool]) -> float:
        return round(sum(values) / len(values), 3)

    pairs = list(zip(items, said, strict=True))
    by_kind = {kind: [(i, s) for i, s in pairs if i.kind == kind] for kind in KINDS}
    return {
        "crisp": {
            "all": share([is_crisp(s) for s in said]),
            **{kind: share([is_crisp(s) for _, s in rows]) for kind, rows in by_kind.items()},
        },
        "right": {kind: share([i.is_right(s) for i, s in rows]) for kind, rows in by_kind.items()},
        "right_when_crisp": {
            kind: share([i.is_right(s) for i, s in rows if is_crisp(s)] or [False])
            for kind, rows in by_kind.items()
        },
    }


def base_rates(folder: Path, per_kind: int = PROMPTS_PER_KIND) -> dict[str, Any]:
    """Measure a model folder: greedy once and at temperature 1 once."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    items = held_out_prompts(per_kind)
    prompts = [item.prompt for item in items]
    torch.manual_seed(MEASURE_SEED)
    return {
        "prompts_per_kind": per_kind,
        "seed": MEASURE_SEED,
        "greedy": rates(items, answers(model, tokenizer, prompts, 0.0)),
        "temperature_1": rates(items, answers(model, tokenizer, prompts, 1.0)),
    }


def sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of every file of the model, and the parameter count."""
    found = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    model = AutoModelForCausalLM.from_pretrained(folder)
    count = sum(p.numel() for p in model.parameters())
    return {"parameters": count, "total_bytes": sum(found.values()), **found}


def write_card(path: Path, folder: Path, build: dict[str, Any]) -> None:
    """Measure a model and write how it was built and what it does, as JSON."""
    card = {
        "name": folder.name,
        "licence": "Apache-2.0",
        "build": build,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "sizes": sizes(folder),
        "held_out": base_rates(folder),
    }
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Print the base rates of a model folder."""
    parser = argparse.ArgumentParser(description="Measure a tiny chat model on held-out prompts.")
    parser.add_argument("model", type=Path, nargs="?", default=Path("models/tiny-chat"))
    parser.add_argument("--prompts", type=int, default=PROMPTS_PER_KIND, help="per kind")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(json.dumps(base_rates(asked.model, asked.prompts), indent=2))


if __name__ == "__main__":
    main()
