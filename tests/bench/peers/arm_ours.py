"""Our arm: the engine's Trainer on the MLX backend, evaluation off.

Options: nll=prompt+response takes ORPO's likelihood as TRL does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_align import backends, methods
from mlx_align.backends.base import Objective, Policy, State, Update
from mlx_align.config import (
    AdapterConfig,
    BackendConfig,
    CheckpointConfig,
    EvalConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from mlx_align.data import BatchPlan, Example, Sizes
from mlx_align.engine.data import RunData
from mlx_align.engine.reference import Reference
from mlx_align.engine.reference_cache import ReferenceCache
from mlx_align.engine.reporter import Reporter
from mlx_align.engine.state import TrainerState
from mlx_align.engine.trainer import Trainer
from mlx_align.events import Event, Step
from mlx_align.runs import Checkpoints, Control
from mlx_align.runs.shards import Shards
from tests.bench.peers.harness import GradientFile, Recorder, first_adapter, main
from tests.bench.peers.workload import Row, Workload


class InOrder(BatchPlan):
    """The engine's plan, its shapes included, for batches that are already composed and ordered."""

    def _arranged(self, epoch: int) -> tuple[Any, Any]:
        return np.arange(len(self._sizes)), np.arange(self.per_epoch)


class Watched:
    """A policy whose gradient is kept when it is about to be applied."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.gradient: State = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def update(self, learning_rate: float) -> Update:
        """Look, then update."""
        prefix = "gradient."
        state = self._policy.training_state()
        self.gradient = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        return self._policy.update(learning_rate)


def configuration(workload: Workload) -> RunConfig:
    """Plain AdamW at a constant rate, nothing clipped, no evaluation."""
    return RunConfig(
        adapter=AdapterConfig(rank=workload.rank, scale=workload.scale),
        optim=OptimConfig(lr=workload.lr, schedule="constant", warmup=0.0, max_grad_norm=0.0),
        train=TrainConfig(epochs=None, steps=workload.steps, batch_size=workload.batch),
        eval=EvalConfig(every=0, samples=0),
        checkpoint=CheckpointConfig(every=10**6),
        backend=BackendConfig(
            name="mlx",
            device="cpu",
            dtype="float32",
            checkpointing="layers" if workload.checkpointing else "none",
        ),
    )


def examples(rows: Sequence[Row]) -> list[Example]:
    """The rows as the engine's data loader would hand them over."""
    return [
        Example(f"row:{i}", tuple(row.prompt), (tuple(row.chosen), tuple(row.rejected)), "", "", ("", ""))
        for i, row in enumerate(rows)
    ]


def run_data(workload: Workload, config: TrainConfig, objective: Objective) -> RunData:
    """The workload's rows in the workload's batches, and nothing to evaluate."""
    data = RunData(examples(workload.rows), [], config, objective)
    whole = objective.method.scores_prompt(objective.hp)
    data._plan = InOrder(Sizes.of(data.train, scores_prompt=whole), config)
    return data


def score_reference(policy: Policy, data: RunData, adapter: State, folder: Path, report: Reporter) -> None:
    """The engine's reference pass with nothing in its cache.

    The reference is the base model: the adapter with B = 0, as every fresh adapter starts.
    """
    policy.load_adapter_state({k: v * 0 if k.endswith("lora_b") else v for k, v in adapter.items()})
    reference = Reference(
        policy,
        Shards(folder / "reference"),
        ReferenceCache(folder / "cache", "base", report, lambda error: None),
        config=data.config,
        report=report,
    )
    (data.train_ref,) = reference.logps(data.train, progress=lambda done, total: None)
    policy.load_adapter_state(adapter)


def run(
    workload: Workload, recorder: Recorder, gradient: GradientFile | None, options: dict[str, str]
) -> None:
    """Reference pass where the method has one, then the Trainer."""
    config, method = configuration(workload), methods.get(workload.method)
    objective = Objective(method, method.hyperparameters(**workload.hyperparameters, **options))
    adapter = first_adapter(workload)
    backend = backends.create(config.backend)
    policy: Any = Watched(backend.load_policy(workload.folder, config.adapter, config.optim, 0))
    policy.load_adapter_state(adapter)
    data = run_data(workload, config.train, objective)

    def hear(event: Event) -> None:
        if isinstance(event, Step):
            recorder.step(event.loss)

    report = Reporter(hear)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = Trainer(
            policy if gradient else policy._policy,
            data,
            None,  # type: ignore[arg-type]  # there is nothing to decode
            config,
            state=TrainerState(),
            report=report,
            control=Control(folder / "control"),
            checkpoints=Checkpoints(folder / "checkpoints", keep=1),
            on_save=lambda _: None,
        )
        recorder.begin()
        if method.needs_reference(objective.hp):
            score_reference(policy, data, adapter, folder, report)
            recorder.reference_done()
        trainer.run()
        recorder.end()
    if gradient:
        gradient.write(policy.gradient)


if __name__ == "__main__":
    from tests.bench.peers.mlx_arms import MlxMemory

    main(run, MlxMemory())
