"""Does GRPO teach arithmetic? Exact match of greedy answers on held-out prompts, before and after.

    python -m tests.bench.grpo              three seeds, the defaults; writes tests/bench/results/grpo.json

The prompts are those of `data_samples/prompts/valid.jsonl`, which neither the base model nor the adapter was
trained on. An answer counts if its last number is the right one; that is read here, not by the reward.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mlx_align import embedded
from mlx_align.api import prepare
from mlx_align.config import BackendConfig, RunConfig
from mlx_align.engine.generate import generate_text
from mlx_align.engine.launch import launch
from mlx_align.events import RunFinished
from mlx_align.runs import RunDirectory
from mlx_align.settings import gather, resolve
from tests.bench.provenance import write

CPU = RunConfig(backend=BackendConfig(device="cpu"))
LONGEST = 48
"""Tokens: as in training (models/catalog.toml)."""


@cache
def problems() -> tuple[tuple[str, str], ...]:
    """Held-out (question, right answer), 200 of them."""
    text = (embedded.samples_folder() / "prompts" / "valid.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    return tuple((row["prompt"], row["answer"]) for row in rows)


def exact_match(adapter: Path | None) -> float:
    """Share of held-out problems whose greedy answer ends with the right number."""
    questions = [question for question, _ in problems()]
    answers = generate_text(CPU, embedded.model_folder(), adapter, questions, max_tokens=LONGEST)
    right = [last_number(text) == wanted for text, (_, wanted) in zip(answers, problems(), strict=True)]
    return sum(right) / len(right)


def last_number(text: str) -> str | None:
    """The last whole number in a text, as it stands there."""
    found = re.findall(r"-?\d+", text)
    return found[-1] if found else None


def learn(root: Path, seed: int = 0, **settings: Any) -> tuple[RunDirectory, float]:
    """One run with the defaults, and with other values for keys such as train__steps; also its seconds."""
    chosen = {key.replace("__", "."): value for key, value in settings.items()}
    flags = {"runs.dir": str(root), "train.seed": seed, "backend.device": "cpu", **chosen}
    run = prepare(resolve(gather("grpo", flags=flags, environ={})))
    began = time.monotonic()
    last = list(launch(run).events())[-1]
    assert isinstance(last, RunFinished), run.log.read_text()
    return run, time.monotonic() - began


def measure(root: Path, seed: int) -> dict[str, Any]:
    """Train once and measure."""
    run, seconds = learn(root, seed)
    state = run.state()
    rollouts = list(state.rollouts)
    return {
        "seed": seed,
        "exact_after": exact_match(run.adapter),
        "steps": state.step,
        "completions": sum(rollout.completions for rollout in rollouts),
        "tokens_sampled": sum(rollout.tokens for rollout in rollouts),
        "sampling_seconds": round(sum(rollout.seconds for rollout in rollouts), 1),
        "training_seconds": round(sum(step.seconds for step in state.steps), 1),
        "seconds": round(seconds, 1),
    }


def main(seeds: Sequence[int] = (0, 1, 2)) -> None:
    """The long form."""
    before = exact_match(None)
    with tempfile.TemporaryDirectory() as root:
        rows = [measure(Path(root), seed) for seed in seeds]
    result = {
        "what": "exact match of greedy answers to held-out arithmetic, after GRPO with the reward 'numeric'",
        "problems": len(problems()),
        "exact_before": before,
        "points_gained_at_least": round(100 * (min(row["exact_after"] for row in rows) - before), 1),
        "runs": rows,
    }
    path = write("grpo.json", result)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
