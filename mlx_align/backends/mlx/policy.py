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
from mlx_align.backends.base import (
    ALONE,
    Ended,
    Generation,
    MemoryUse,
    Objective,
    Sampling,
    Scores,
    State,
    Update,
    World,
)
from mlx_align.backends.completions import Asked
from mlx_align.backends.mlx import adapters, cpu, generation, longrope
from mlx_align.backends.mlx.arrays import Arrays, state_of, to_numpy, tree_of
from mlx_align.backends.mlx.caches import trouble_together
from mlx_align.backends.mlx.checkpointing import Checkpointing, check_called, checkpointed
from mlx_align.backends.mlx.gradients import Gradients, scores_of
from mlx_align.backends.mlx.lanes import Lanes
from mlx_align.backends.mlx.lora import makes_weights, prepare, set_keys
from mlx_align.backends.mlx.memory import to_be_cleared
from mlx_align.backends.mlx.optim import Updater
from mlx_align.backends.mlx.probe import choose
from mlx_align.backends.mlx.step import Functions, to_arrays
from mlx_align.backends.mlx.substitutes import scope
from mlx_align.backends.parts import Part, divide, spread, together
from mlx_align.batch import Batch
from mlx_align.config import OptimConfig

ONE_BY_ONE = "Prompts are continued one after the other instead of side by side, because {}."


class MlxPolicy:
    """`backends.base.Policy` on an mlx-lm model.

    Args:
        model: the model, its adapter attached and everything else frozen.
        facts: the adapter's adapter_config.json.
        config: the optimiser, or None for a policy that only scores and generates.
        memory: reports the memory in use.
        compiled: whether MLX compiles the functions of a step.
        checkpointing: what the backward pass computes a second time (`checkpointing`), if there is one.
        lanes: the CPU's, if it computes; a batch is then divided among them and padded no further than its
            rows need. None: it keeps its shape.

    Raises:
        UsageError: this architecture does not allow the checkpointing asked for, or to be trained at all.
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
        lanes: Lanes | None = None,
    ) -> None:
        self._model, self._facts, self._config = model, facts, config
        self._gradient: Arrays | None = None
        self._world: World = ALONE
        self._shapes: tuple[Any, ...] = ()
        self._memory, self._divides, self._lanes = memory, lanes is not None, lanes or Lanes()
        dropouts = prepare(model)
        mx.eval(model.parameters())
        if config is None:  # no reason of training keeps a model from generating
            checkpointing = "none"
        reading = choose(model, self._lanes.count, frugal=checkpointing == "layers")
        if config is not None:
            reading.check("trained")
        trouble = trouble_together(model)
        self._together = trouble is None
        self.notes = (*reading.notes, *([ONE_BY_ONE.format(trouble)] if trouble else []))
        self.positions = longrope.positions(model)
        self._reading = reading
        # Groups' features are joined before the scored ones are taken; those of a whole model are logits.
        ragged = self._divides and not makes_weights(model) and not reading.forward.model.whole
        self._forward = replace(reading.forward, stages=self._lanes.stages, ragged=ragged)
        own = cpu.substitutes(lanes.stages) if lanes else {}
        substitutes = scope(model, own, checkpointed(model, checkpointing))
        if checkpointing == "layers":  # a layer that cannot be computed twice says so now, not hours later
            set_keys(dropouts, mx.random.key(0))
            model.train()
            with substitutes():
                reading.forward.model.features(mx.array([[1, 2]]))
            model.eval()
            check_called(model)
        self._functions = Functions(model, self._forward, compiled, dropouts, substitutes)
        self._gradients = Gradients(self._functions, self._forward, self._lanes)
        if config is not None:
            self._updater = Updater(config, self._adapter(), compiled)

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(value.size) for value in self._adapter().values())

    def memory(self) -> MemoryUse:
        """Memory in use, and the traces made so far."""
        updates = 0 if self._config is None else self._updater.traces
        return replace(self._memory(), traces=self._functions.traces + updates)

    def _adapter(self) -> Arrays:
        return dict(tree_flatten(self._model.trainable_parameters()))

    # Forward

    def logps(self, batch: Batch, *, temperature: float = 1.0) -> NDArray[np.float32]:
        """(N, T) log-probabilities of the branch tokens under the policy.

        Raises:
            UsageError: all that can be done with this model is to generate.
        """
        self._reading.check("scored")

        def build(part: Part) -> mx.array:
            inputs = self._forward.inputs(part.batch)
            return self._functions.logps(inputs, to_arrays(part.batch), temperature)

        parts = self._parts(batch)
        made = self._lanes.map(build, parts)
        return spread(batch, parts, [to_numpy(logps) for logps in made])

    def next_logps(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(N, V) log-probabilities of every token to come next, each prompt read by itself.

        Raises:
            UsageError: as in `logps`.
        """
        self._reading.check("scored")
        self._model.eval()
        split = self._forward.model

        def after(prompt: Sequence[int]) -> NDArray[np.float32]:
            last = split.features(mx.array([list(prompt)], mx.int32))[0, -1:]
            logits = split.logits(last)[0].astype(mx.float32)
            return to_numpy(logits - mx.logsumexp(logits))

        return np.stack([after(prompt) for prompt in prompts])

    def evaluate(self, batch: Batch, objective: Objective) -> Scores:
        """Loss and metrics without gradient, dropout off.

        Raises:
            UsageError: as in `logps`.
        """
        self._reading.check("scored")

        def build(part: Part) -> tuple[Arrays, Arrays, mx.array]:
            inputs = self._forward.inputs(part.batch)
            return self._functions.scores(objective, inputs, to_arrays(part.batch))

        parts = self._parts(batch)
        return together(batch, parts, [scores_of(*made) for made in self._lanes.map(build, parts)])

    def _parts(self, batch: Batch) -> list[Part]:
        whole = Part(tuple(range(batch.size)), batch)
        return divide(batch, self._lanes.count) if self._divides else [whole]

    # Training

    def accumulate(
        self, batch: Batch, objective: Objective, counts: Mapping[str, float], *, seed: int
    ) -> Scores:
        """Add one micro-batch's gradient of sum_term sums[term] / counts[term]."""
        self._make_room(batch)
        parts = self._parts(batch)
        gradient, scores = self._gradients.of(parts, objective, counts, seed)
        if self._gradient is not None:
            gradient = {name: self._gradient[name] + grad for name, grad in gradient.items()}
            mx.eval(gradient)
        self._gradient = gradient
        return together(batch, parts, scores)

    def _make_room(self, batch: Batch) -> None:
        """Buffers that MLX keeps fit the last shapes; for other shapes most of them are of no use."""
        shapes = (batch.prompt_ids.shape, batch.branch_ids.shape, batch.scored.shape)
        if shapes != self._shapes:
            use, cached = self._memory(), mx.get_cache_memory()
            if to_be_cleared(use, cached, mx.default_device()):
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
        sampling: Sampling,
        stop_ids: Sequence[int],
        samples: int = 1,
        ended: Ended | None = None,
        seed: int = 0,
    ) -> list[list[Generation]]:
        """Continue the prompts, each by several samples, side by side."""
        self._model.eval()
        asked = Asked(prompts, sampling, stop_ids, samples, ended, seed)
        return generation.generate(self._model, asked, together=self._together)

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
