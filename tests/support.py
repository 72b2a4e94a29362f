"""What several test files need: the embedded model as a policy, tokenised sample rows, runs, their locks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mlx_align import backends, embedded, methods
from mlx_align.backends.base import Objective, Policy, State
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import ChatTokenizer, Example, load_dataset, tokenize_rows
from mlx_align.engine.tokenizer import load_tokenizer
from mlx_align.runs import RunDirectory
from mlx_align.settings import gather, resolve

FAST: dict[str, Any] = {
    "train.steps": 4,
    "train.batch_size": 2,
    "eval.rows": 6,
    "eval.samples": 2,
    "eval.max_tokens": 12,
    "eval.every": 2,
    "checkpoint.every": 2,
    "adapter.rank": 4,
    "adapter.layers": 2,
}
"""Settings for a run that is over in a second or two."""


@cache
def tokenizer() -> ChatTokenizer:
    return load_tokenizer(embedded.model_folder())


@cache
def examples(rows: str = "pair", count: int = 16) -> tuple[Example, ...]:
    dataset = load_dataset(embedded.sample_for(rows), rows, valid_fraction=0.1, seed=0)
    return tokenize_rows(dataset.train[:count], tokenizer(), max_length=512, too_long="error").examples


def policy(
    adapter: AdapterConfig | None = None,
    optim: OptimConfig | None = None,
    seed: int = 0,
    *,
    backend: str = "mlx",
    model: Path | None = None,
    spread: float = 0.02,
    longest: int | None = None,
) -> Policy:
    """A model, the embedded one by default, with an adapter whose B is not zero: every gradient is alive."""
    made = backends.create(BackendConfig(name=backend, device="cpu")).load_policy(
        model or embedded.model_folder(),
        adapter or AdapterConfig(rank=4),
        optim or OptimConfig(),
        seed,
        longest,
    )
    made.load_adapter_state(disturbed(made.adapter_state(), spread))
    return made


def disturbed(state: State, spread: float = 0.02) -> State:
    """The same adapter with random numbers of this deviation in every B."""
    rng = np.random.default_rng(1)
    return {
        name: rng.normal(0, spread, value.shape).astype(np.float32) if name.endswith("lora_b") else value
        for name, value in sorted(state.items())
    }


def objective(name: str, **hp: Any) -> Objective:
    method = methods.get(name)
    return Objective(method, method.hyperparameters(**hp))


def small_data(folder: Path, rows: str) -> Path:
    """A folder with the first rows of the sample."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train.jsonl", 24), ("valid.jsonl", 8)):
        lines = (embedded.sample_for(rows) / name).read_text(encoding="utf-8").split("\n")
        (folder / name).write_text("\n".join(lines[:count]) + "\n", encoding="utf-8")
    return folder


def new_run(root: Path, method: str = "orpo", **settings: Any) -> RunDirectory:
    """A prepared run with fast settings; keyword "train__steps" stands for train.steps."""
    from mlx_align.api import prepare

    data = small_data(root.parent / "data", methods.get(method).rows)
    chosen = {key.replace("__", "."): value for key, value in settings.items()}
    if "adapter.start" in chosen:  # which decides the adapter's shape
        chosen = {**chosen, "adapter.rank": None, "adapter.layers": None}
    flags = {**FAST, "data.path": str(data), "runs.dir": str(root), "backend.device": "cpu", **chosen}
    flags = {key: value for key, value in flags.items() if value is not None}
    return prepare(resolve(gather(method, flags=flags, environ={})))


def engine(run: RunDirectory) -> int:
    """One attempt at a run, in this process."""
    from mlx_align.engine.__main__ import main

    return main([str(run.path)])


HOLDER = """
import signal, sys
from pathlib import Path
from mlx_align.runs import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


@contextmanager
def lock_holder(lock: Path, *, leads: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a run's lock and hears nothing, as an engine that hangs does.

    Args:
        lock: the run's.
        leads: whether it leads a process group of its own, as an engine does that `launch` started.
    """
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=leads) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()
