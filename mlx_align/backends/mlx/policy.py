"""A base model with a trainable adapter, in MLX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from mlx_align.backends import adapter_files
from mlx_align.backends.base import ALONE, Generation, MemoryUse, Objective, Scores, State, Update, World
from mlx_align.backends.mlx import adapters, generation
from mlx_align.backends.mlx.arrays import Arrays, state_of, to_numpy, tree_of
from mlx_align.backends.mlx.checkpointing import Checkpointing, scope
from mlx_align.backends.mlx.lora import prepare
from mlx_align.backends.mlx.optim import Updater
from mlx_align.backends.mlx.probe import choose
from mlx_align.backends.mlx.step import Functions, to_arrays
from mlx_align.batch import Batch
from mlx_align.config import OptimConfig
from mlx_align.methods.base import Loss

CACHED_BYTES = 1 << 30
"""Freed buffers above this are given back when the shapes change; at every step that would cost time."""


class MlxPolicy:
    """`backends.base.Policy` on an mlx-lm model.

    Args:
        model: the model, its adapter attached and everything else frozen.
        facts: the adapter's adapter_config.json.
        config: the optimiser, or None for a policy that only scores and generates.
        memory: reports the memory in use.
        compiled: whether MLX compiles the functions of a step.
        checkpointing: what the backward pass computes a second time (`checkpointing`).

    Raises:
        UsageError: this architecture does not allow the checkpointing asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        facts: dict[str, Any],
        config: OptimConfig | None,
        memory: Callable[[], MemoryUse],
        *,
        compiled: bool,
        checkpointing: Checkpointing,
    ) -> None:
        self._model, self._facts, self._config = model, facts, config
        self._gradient: Arrays | None = None
        self._world: World = ALONE
        self._shapes: tuple[Any, ...] = ()
        self._memory = memory
        dropouts = prepare(model)
        mx.eval(model.parameters())
        reading = choose(model)
        self.notes = reading.notes
        self._forward = reading.forward
        self._functions = Functions(model, reading.forward, compiled, dropouts, scope(model, checkpointing))
        if config is not None:
            self._updater = Updater(config, self._adapter(), compiled)

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(value.size) for value in self._adapter().values())

    def memory(self) -> MemoryUse:
        """Memory in use, and the traces made so far."""
        return replace(self._memory(), traces=self._functions.traces)

    def _adapter(self) -> Arrays:
        return dict(tree_flatten(self._model.trainable_parameters()))

    # Forward

    def logps(self, batch: Batch) -> NDArray[np.float32]:
        """(N, T) log-probabilities of the branch tokens under the policy."""
        return to_numpy(self._functions.logps(self._forward.inputs(batch), to_arrays(batch)))

    def evaluate(self, batch: Batch, objective: Objective) -> Scores:
        """Loss and metrics without gradient, dropout off."""
        return _scores(*self._functions.scores(objective, self._forward.inputs(batch), to_arrays(batch)))

    # Training

    def accumulate(
        self, batch: Batch, objective: Objective, counts: Mapping[str, float], *, seed: int
    ) -> Scores:
        """Add one micro-batch's gradient of sum_term sums[term] / counts[term]."""
        self._make_room(batch)
        gradient, loss, logps = self._functions.gradient(
            objective,
            self._forward.inputs(batch),
            to_arrays(batch),
            {term: mx.array(count, mx.float32) for term, count in counts.items()},
            mx.random.key(seed),
        )
        if self._gradient is not None:
            gradient = {name: self._gradient[name] + grad for name, grad in gradient.items()}
        mx.eval(gradient, loss.sums, loss.metrics, logps)
        self._gradient = gradient
        return _scores(loss, logps)

    def _make_room(self, batch: Batch) -> None:
        """Buffers that MLX keeps fit the last shapes; for other shapes most of them are of no use."""
        shapes = (batch.prompt_ids.shape, batch.branch_ids.shape, batch.scored.shape)
        if shapes != self._shapes and mx.get_cache_memory() > CACHED_BYTES:
            mx.clear_cache()
        self._shapes = shapes

    def join(self, world: World) -> None:
        """Sum the gradient over these ranks."""
        self._world = world

    def _total(self) -> Arrays | None:
        """The gradient of all ranks; one that had no rows adds zeros. None if no rank has any."""
        if self._world.size == 1:
            return self._gradient
        if not any(self._world.gather(self._gradient is not None)):
            return None
        own = self._gradient or {name: mx.zeros_like(value) for name, value in self._adapter().items()}
        total = self._world.sum({name: to_numpy(value) for name, value in own.items()})
        return {name: mx.array(value) for name, value in total.items()}

    def update(self, learning_rate: float) -> Update:
        """Clip, apply if finite, clear."""
        gradient, self._gradient = self._total(), None
        if self._config is None or gradient is None:
            raise RuntimeError("update() needs an optimiser and at least one accumulate()")
        adapter, norm = self._updater.apply(self._adapter(), gradient, learning_rate)
        self._model.update(tree_unflatten(list(adapter.items())))
        return Update(norm, applied=math.isfinite(norm))

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
        total = self._total()
        gradient = {} if total is None else tree_unflatten(list(total.items()))
        return {**state_of(self._updater.state, "optimizer"), **state_of(gradient, "gradient")}

    def load_training_state(self, state: State) -> None:
        """Put back what `training_state` returned."""
        self._updater.state = tree_of(state, "optimizer")
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
