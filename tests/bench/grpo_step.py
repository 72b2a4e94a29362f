"""What an update of GRPO costs, sampling included, beside TRL's own GRPOTrainer: equal work, in turns.

    python -m tests.bench.grpo_step             writes tests/bench/results/grpo-step.json
    python -m tests.bench.grpo_step --quick     each arm once, two updates, printed only

Random weights in the shape that the peers are timed with (41 million parameters), 2 prompts of 60 tokens, 4
completions of each, 64 tokens, temperature 1, one update a rollout, no KL term, LoRA of rank 8 on all
projections. Each arm runs in a process of its own. The first update is left out of the figures: whatever is
compiled is compiled then.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.provenance import write
from tests.bench.rollouts import SHAPE
from tests.conftest import ROOT

PROMPTS, GROUP, PROMPT_TOKENS, TOKENS = 2, 4, 60, 64
UPDATES, REPEATS, LR, RANK, SCALE = 4, 3, 1e-5, 8, 2.0
PAD, EOS = 0, SHAPE["vocab_size"] - 1


def questions(updates: int) -> list[list[list[int]]]:
    """(updates, PROMPTS, PROMPT_TOKENS) token ids."""
    ids = np.random.default_rng(0).integers(1, EOS, (updates, PROMPTS, PROMPT_TOKENS))
    made: list[list[list[int]]] = ids.tolist()
    return made


def reward(ids: Sequence[int]) -> float:
    """Something that differs between completions."""
    return float(sum(ids) % 7)


def ours(folder: Path, updates: int) -> list[float]:
    """The parts that the engine is made of, one after the other as it calls them."""
    from mlx_align import backends, methods
    from mlx_align.backends.base import Objective, Sampling
    from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
    from mlx_align.data import Example
    from mlx_align.engine.rollouts.advantages import advantages
    from mlx_align.engine.rollouts.batches import Batches
    from mlx_align.engine.rollouts.rollout import Rollout, padded
    from mlx_align.engine.rollouts.shapes import RolloutShapes

    method = methods.get("grpo")
    objective = Objective(method, method.hyperparameters(group_size=GROUP))
    backend = backends.create(BackendConfig(device="cpu"))
    policy = backend.load_policy(folder, AdapterConfig(rank=RANK, scale=SCALE), OptimConfig(lr=LR), 0)
    shapes = RolloutShapes(PROMPTS, GROUP, PROMPT_TOKENS, TOKENS)
    seconds = []
    for step, prompts in enumerate(questions(updates)):
        began = time.perf_counter()
        sampling = Sampling(max_tokens=TOKENS, temperature=1.0)
        groups = policy.generate(prompts, sampling=sampling, stop_ids=[EOS], samples=GROUP, seed=step)
        completions = [one.token_ids for group in groups for one in group]
        rewards = np.array([reward(ids) for ids in completions])
        ids, lengths = padded(completions)
        rollout = Rollout(
            number=step,
            rows=np.arange(PROMPTS),
            ids=ids,
            lengths=lengths,
            truncated=lengths == TOKENS,
            rewards=rewards,
            advantages=advantages(rewards.reshape(PROMPTS, GROUP), "group").reshape(-1).astype(np.float32),
        )
        examples = [Example(f"row:{n}", tuple(p), (), "", "", ()) for n, p in enumerate(prompts)]
        (batch,) = Batches(examples, shapes, mask_truncated=False).of(rollout)
        policy.accumulate(batch, objective, method.counts(batch, objective.hp), seed=step)
        policy.update(LR)
        seconds.append(time.perf_counter() - began)
    return seconds


def trl(folder: Path, updates: int) -> list[float]:
    """TRL's trainer on torch."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            marks.append(-time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks[-1] += time.perf_counter()

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [{"prompt": tokenizer.decode(ids)} for prompts in questions(updates) for ids in prompts]
    assert len(tokenizer(rows[0]["prompt"])["input_ids"]) == PROMPT_TOKENS
    with tempfile.TemporaryDirectory() as out:
        args = GRPOConfig(
            output_dir=out, use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_steps=1,
            per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, max_steps=updates,
            max_completion_length=TOKENS, learning_rate=LR, temperature=1.0, beta=0.0, top_k=0,
            gradient_checkpointing=False, disable_tqdm=True, shuffle_dataset=False,
        )  # fmt: skip
        GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder),
            reward_funcs=lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=int(RANK * SCALE), target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[Clock()],
        ).train()
    return marks


ARMS = {"ours": ours, "trl": trl}


def make_model(folder: Path) -> None:
    """A random model, and a tokenizer that has a word for each token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    facts = {key: value for key, value in SHAPE.items() if key != "model_type"}
    config = Qwen3Config(**facts, pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": PAD, **{f"w{n}": n for n in range(1, EOS)}, "<eos>": EOS}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    made.save_pretrained(folder)


def run(arm: str, folder: Path, updates: int) -> list[float]:
    """An arm in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.grpo_step", "--arm", arm, str(folder), str(updates)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds: list[float] = json.loads(done.stdout.strip().split("\n")[-1])
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="What an update of GRPO costs.")
    parser.add_argument("--quick", action="store_true", help="each arm once, two updates, printed only")
    parser.add_argument("--arm", nargs=3, metavar=("NAME", "FOLDER", "UPDATES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.arm:
        name, folder, updates = arguments.arm
        print(json.dumps(ARMS[name](Path(folder), int(updates))))
        return
    updates, repeats = (2, 1) if arguments.quick else (UPDATES, REPEATS)
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        make_model(Path(scratch))
        for _ in range(repeats):
            for name in ARMS:
                seconds[name] += run(name, Path(scratch), updates)[1:]
    medians = {name: round(statistics.median(values), 2) for name, values in seconds.items()}
    result = {
        "what": "seconds of one GRPO update, sampling included",
        "model": SHAPE,
        "work": {"prompts": PROMPTS, "group": GROUP, "prompt_tokens": PROMPT_TOKENS, "tokens": TOKENS},
        "seconds": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
        "median": medians,
        "ratio": round(medians["ours"] / medians["trl"], 3),
    }
    print(json.dumps(result, indent=1) if arguments.quick else write("grpo-step.json", result))


if __name__ == "__main__":
    main()
