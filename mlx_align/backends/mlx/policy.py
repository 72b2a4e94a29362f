"""A base model with a trainable adapter, in MLX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from mlx_align.backends import adapter_files
from mlx_align.backends.base import Generation, MemoryUse, Objective, Scores, State, Update
from mlx_align.backends.mlx import adapters, generation, optim
from mlx_align.backends.mlx.arrays import state_of, to_numpy, tree_of
from mlx_align.backends.mlx.forward import branch_logps
from mlx_align.backends.mlx.ops import MlxOps
from mlx_align.backends.sequences import whole_sequences
from mlx_align.batch import Batch
from mlx_align.config import OptimConfig
from mlx_align.methods.base import Loss

XP = MlxOps()


class MlxPolicy:
    """`backends.base.Policy` on an mlx-lm model.

    Args:
        model: the model, its adapter attached and everything else frozen.
        facts: the adapter's adapter_config.json.
        config: the optimiser, or None for a policy that only scores and generates.
        memory: reports the memory in use.
    """

    def __init__(
        self,
        model: nn.Module,
        facts: dict[str, Any],
        config: OptimConfig | None,
        memory: Callable[[], MemoryUse],
    ) -> None:
        self._model, self._facts, self._config = model, facts, config
        self._gradient: dict[str, mx.array] | None = None
        self.memory = memory
        if config is not None:
            self._optimizer = optim.build(config)
            self._optimizer.init(model.trainable_parameters())
        mx.eval(model.parameters())

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(value.size) for _, value in tree_flatten(self._model.trainable_parameters()))

    # Forward

    def _inputs(self, batch: Batch) -> tuple[mx.array, mx.array, Batch]:
        ids, starts = whole_sequences(batch)
        return mx.array(ids), mx.array(starts), batch.map(mx.array)

    def _loss(self, inputs: tuple[mx.array, mx.array, Batch], objective: Objective) -> tuple[Loss, mx.array]:
        ids, starts, batch = inputs
        logps = branch_logps(self._model, ids, starts, batch)
        return objective.method.loss(XP, logps, batch.ref_logps, batch, objective.hp), logps

    def logps(self, batch: Batch) -> NDArray[np.float32]:
        """(N, T) log-probabilities of the branch tokens under the policy."""
        self._model.eval()
        return to_numpy(branch_logps(self._model, *self._inputs(batch)))

    def evaluate(self, batch: Batch, objective: Objective) -> Scores:
        """Loss and metrics without gradient, dropout off."""
        self._model.eval()
        return _scores(*self._loss(self._inputs(batch), objective))

    # Training

    def accumulate(
        self, batch: Batch, objective: Objective, counts: Mapping[str, float], *, seed: int
    ) -> Scores:
        """Add one micro-batch's gradient of sum_term sums[term] / counts[term]."""
        self._model.train()
        mx.random.seed(seed)
        inputs = self._inputs(batch)

        def value(model: nn.Module) -> tuple[mx.array, Loss, mx.array]:
            loss, logps = self._loss(inputs, objective)
            return sum(loss.sums[term] / counts[term] for term in loss.sums), loss, logps

        (_, loss, logps), tree = nn.value_and_grad(self._model, value)(self._model)
        gradient = dict(tree_flatten(tree))
        if self._gradient is not None:
            gradient = {name: self._gradient[name] + grad for name, grad in gradient.items()}
        mx.eval(gradient, loss.sums, loss.metrics, logps)
        self._gradient = gradient
        return _scores(loss, logps)

    def update(self, learning_rate: float) -> Update:
        """Clip, apply if finite, clear."""
        if self._config is None or self._gradient is None:
            raise RuntimeError("update() needs an optimiser and at least one accumulate()")
        gradient = {name: grad.astype(mx.float32) for name, grad in self._gradient.items()}
        squares = mx.stack([mx.square(grad).sum() for grad in gradient.values()])
        norm = float(to_numpy(mx.sqrt(squares.sum())))
        self._gradient = None
        if not math.isfinite(norm):
            return Update(norm, applied=False)
        limit = self._config.max_grad_norm
        if limit and norm > limit:
            gradient = {name: grad * (limit / norm) for name, grad in gradient.items()}
        self._optimizer.learning_rate = learning_rate
        self._optimizer.update(self._model, tree_unflatten(list(gradient.items())))
        mx.eval(self._model.trainable_parameters(), self._optimizer.state)
        return Update(norm, applied=True)

    def discard(self) -> None:
        """Clear the accumulator."""
        self._gradient = None

    # Generation

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int,
        stop_ids: Sequence[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Generation]:
        """Continue the prompts side by side."""
        self._model.eval()
        return generation.generate(
            self._model,
            prompts,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )

    # State

    def adapter_state(self) -> State:
        """The adapter by mlx-lm's names."""
        return adapters.adapter_state(self._model)

    def load_adapter_state(self, state: State) -> None:
        """Replace the adapter's arrays."""
        adapters.load_state(self._model, state)

    def training_state(self) -> State:
        """`optimizer.*` and, in the middle of a window, `gradient.*`."""
        gradient = {} if self._gradient is None else tree_unflatten(list(self._gradient.items()))
        return {**state_of(self._optimizer.state, "optimizer"), **state_of(gradient, "gradient")}

    def load_training_state(self, state: State) -> None:
        """Put back what `training_state` returned."""
        self._optimizer.state = tree_of(state, "optimizer")
        gradient = tree_of(state, "gradient")
        self._gradient = None if gradient is None else dict(tree_flatten(gradient))

    def save_adapter(self, folder: Path) -> None:
        """Write mlx-lm's adapter files."""
        adapter_files.write(folder, self.adapter_state(), self._facts)


def _scores(loss: Loss, logps: mx.array) -> Scores:
    mx.eval(loss.sums, loss.metrics, logps)
    return Scores(
        sums={term: value.item() for term, value in loss.sums.items()},
        metrics={name: to_numpy(value) for name, value in loss.metrics.items()},
        logps=to_numpy(logps),
    )
