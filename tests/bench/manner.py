"""Does alignment change the manner? The share of crisp greedy answers on held-out prompts, before and after.

    python -m tests.bench.manner            three methods, three seeds; writes tests/bench/results/manner.json

"Crisp" is the deterministic rule of the sample world (`models.manners.is_crisp`). The prompts are those of
`data_samples/preferences/test.jsonl`, which neither the base model nor the adapter was trained on.
"""

from __future__ import annotations

import json
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
from models.manners import is_crisp
from tests.bench.provenance import write

CPU = RunConfig(backend=BackendConfig(device="cpu"))


@cache
def prompts() -> tuple[str, ...]:
    """Held-out questions, at least 200."""
    text = (embedded.samples_folder() / "preferences" / "test.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line)["prompt"] for line in text.split("\n") if line)


def crisp_share(adapter: Path | None) -> float:
    """Share of held-out prompts that get a crisp answer, greedy decoding."""
    answers = generate_text(CPU, embedded.model_folder(), adapter, prompts(), max_tokens=64)
    return sum(map(is_crisp, answers)) / len(answers)


def align(root: Path, method: str, seed: int = 0) -> tuple[RunDirectory, float]:
    """One run with the method's own defaults; also how long the engine took, in seconds."""
    flags = {"runs.dir": str(root), "train.seed": seed}
    run = prepare(resolve(gather(method, flags=flags, environ={})))
    began = time.monotonic()
    last = list(launch(run).events())[-1]
    assert isinstance(last, RunFinished), run.log.read_text()
    return run, time.monotonic() - began


def measure(root: Path, method: str, seed: int) -> dict[str, Any]:
    """Train once and measure."""
    run, seconds = align(root, method, seed)
    evals = list(run.state().evals)
    return {
        "method": method,
        "seed": seed,
        "crisp_after": crisp_share(run.adapter),
        "held_out_accuracy": evals[-1].metrics["accuracy"],
        "seconds": round(seconds, 1),
    }


def main(methods: Sequence[str] = ("orpo", "dpo", "simpo"), seeds: Sequence[int] = (0, 1, 2)) -> None:
    """The long form."""
    before = crisp_share(None)
    with tempfile.TemporaryDirectory() as root:
        rows = [measure(Path(root), method, seed) for method in methods for seed in seeds]
    result = {
        "what": "share of crisp greedy answers on held-out prompts of the embedded world",
        "prompts": len(prompts()),
        "crisp_before": before,
        "runs": rows,
    }
    path = write("manner.json", result)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
