"""Build the tiny chat model from nothing: world, tokenizer, training on the CPU, measurements.

    python -m models.build_tiny_chat --out models/tiny-chat

Everything is drawn from `--seed`. `--minutes` ends the run early on a slow machine: the learning
rate follows whichever of steps and minutes is further along.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from models.corpus import FINAL_MIX, LEARN_MIX, Example, batches, examples, tokenizer_texts
from models.measure import write_card
from models.tokenizer import END, MAX_POSITIONS, PAD, VOCAB_SIZE, save_tokenizer, train_tokenizer

ROPE_THETA = 10000.0
POOL_BATCHES = 48


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training run."""

    steps: int = 7000
    minutes: float = 240.0
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup: float = 0.03
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 7
    save_every: int = 1000
    learn_share: float = 0.6
    """The part of the run that uses `LEARN_MIX`; the rest uses `FINAL_MIX`."""


def make_config(tokenizer: Tokenizer) -> Qwen3Config:
    """Describe the architecture: Qwen3, 2.6 million parameters, every width a multiple of 256."""
    return Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )


def collate(batch: list[Example], pad: int) -> tuple[Tensor, Tensor]:
    """Pad on the right to a multiple of 4: token ids, and the targets with -100 where not scored."""
    width = -(-max(len(example.ids) for example in batch) // 4) * 4
    ids = torch.full((len(batch), width), pad)
    targets = torch.full((len(batch), width), -100)
    for row, example in enumerate(batch):
        length = len(example.ids)
        ids[row, :length] = torch.tensor(example.ids)
        scored = [i if s else -100 for i, s in zip(example.ids, example.scored, strict=True)]
        targets[row, : length - 1] = torch.tensor(scored[1:])
    return ids, targets


def batch_loss(model: Qwen3ForCausalLM, ids: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the answers' tokens; only their logits are computed.

    Padding stands on the right, where a causal model does not see it, so no mask is needed.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        scored = targets != -100
        logits = model.lm_head(hidden[scored])
    return functional.cross_entropy(logits.float(), targets[scored])


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Linear warm-up, then a cosine down to 2% of the peak."""
    if progress < recipe.warmup:
        return recipe.learning_rate * (progress + 1e-3) / (recipe.warmup + 1e-3)
    along = (progress - recipe.warmup) / (1 - recipe.warmup)
    return recipe.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(along, 1.0))))


class Clock:
    """How far along a run is, by steps or by minutes, whichever is further."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.step = 0
        self._start = time.monotonic()

    @property
    def minutes(self) -> float:
        """Minutes since the start."""
        return (time.monotonic() - self._start) / 60

    @property
    def progress(self) -> float:
        """The part of the run that is done, 0 to 1."""
        return min(1.0, max(self.step / self.recipe.steps, self.minutes / self.recipe.minutes))


def stream(rng: Random, tokenizer: Tokenizer, clock: Clock) -> Iterator[list[Example]]:
    """Yield training batches for ever, from the mix that the clock asks for."""
    size = clock.recipe.batch_size
    while True:
        mix = LEARN_MIX if clock.progress < clock.recipe.learn_share else FINAL_MIX
        yield from batches(rng, examples(rng, tokenizer, mix, POOL_BATCHES * size), size)


def make_optimiser(model: Qwen3ForCausalLM, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; the norms' weights do not decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def train(model: Qwen3ForCausalLM, tokenizer: Tokenizer, recipe: Recipe, out: Path) -> Clock:
    """Train to the end of the recipe, saving now and then."""
    optimiser = make_optimiser(model, recipe)
    clock = Clock(recipe)
    rng = Random(recipe.seed)
    pad = int(model.config.pad_token_id or 0)
    recent = 0.0
    for batch in stream(rng, tokenizer, clock):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, clock.progress)
        loss = batch_loss(model, *collate(batch, pad))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        optimiser.zero_grad()
        clock.step += 1
        recent += (loss.item() - recent) / min(clock.step, 50)
        if clock.step % 100 == 0:
            print(f"step {clock.step}  loss {recent:.4f}  minutes {clock.minutes:.1f}", flush=True)
        if clock.progress >= 1.0:
            break
        if clock.step % recipe.save_every == 0:
            save(model, tokenizer, out)
    return clock


def config_json(config: Qwen3Config) -> str:
    """Write the configuration with the names that every loader knows."""
    fields = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": config.eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": config.initializer_range,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "qwen3",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": None,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    return json.dumps(fields, indent=2) + "\n"


def save(model: Qwen3ForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write the folder in the Hugging Face layout, whole or not at all."""
    fresh, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {n: w.detach().float().contiguous() for n, w in model.state_dict().items()}
    weights.pop("lm_head.weight", None)
    save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
    (fresh / "model.safetensors").chmod(0o644)
    config = model.config
    (fresh / "config.json").write_text(config_json(config), encoding="utf-8")
    generation = {
        "do_sample": False,
        "eos_token_id": config.eos_token_id,
        "max_new_tokens": 64,
        "pad_token_id": config.pad_token_id,
    }
    text = json.dumps(generation, indent=2) + "\n"
    (fresh / "generation_config.json").write_text(text, encoding="utf-8")
    save_tokenizer(tokenizer, fresh)
    if out.exists():
        os.replace(out, old)
    os.replace(fresh, out)
    shutil.rmtree(old, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the defaults are the committed model's recipe."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(description="Build the tiny chat model.")
    parser.add_argument("--out", type=Path, default=Path("models/tiny-chat"))
    parser.add_argument("--card", type=Path, default=Path("models/tiny-chat-card.json"))
    parser.add_argument("--steps", type=int, default=recipe.steps)
    parser.add_argument("--minutes", type=float, default=recipe.minutes, help="end no later")
    parser.add_argument("--batch-size", type=int, default=recipe.batch_size)
    parser.add_argument("--learning-rate", type=float, default=recipe.learning_rate)
    parser.add_argument("--seed", type=int, default=recipe.seed)
    parser.add_argument("--save-every", type=int, default=recipe.save_every, metavar="STEPS")
    parser.add_argument("--learn-share", type=float, default=recipe.learn_share)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Build the model and its card."""
    asked = parse_arguments()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(asked.seed)
    recipe = Recipe(
        steps=asked.steps,
        minutes=asked.minutes,
        batch_size=asked.batch_size,
        learning_rate=asked.learning_rate,
        seed=asked.seed,
        save_every=asked.save_every,
        learn_share=asked.learn_share,
    )
    tokenizer = train_tokenizer(tokenizer_texts(Random(recipe.seed), 40_000))
    model = Qwen3ForCausalLM(make_config(tokenizer)).float()
    clock = train(model, tokenizer, recipe, asked.out)
    save(model, tokenizer, asked.out)
    build = {"recipe": asdict(recipe), "steps": clock.step, "minutes": round(clock.minutes, 1)}
    write_card(asked.card, asked.out, build)


if __name__ == "__main__":
    main()
