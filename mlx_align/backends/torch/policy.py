"""A base model with a trainable adapter, in torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlx_align.backends import adapter_files
from mlx_align.backends.base import (
    SLOPES_LEAST,
    SLOPES_MOST,
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
from mlx_align.backends.parts import pieces, rejoined
from mlx_align.backends.positions import Positions
from mlx_align.backends.sequences import whole_sequences
from mlx_align.backends.torch import generation
from mlx_align.backends.torch.adapters import Attached
from mlx_align.backends.torch.arrays import batch_on, state_of, to_numpy, under
from mlx_align.backends.torch.forward import scored_logps
from mlx_align.backends.torch.ops import TorchOps
from mlx_align.backends.torch.optim import Optimizer
from mlx_align.batch import Batch
from mlx_align.config import OptimConfig
from mlx_align.errors import UsageError
from mlx_align.methods.base import Loss

XP = TorchOps()


class TorchPolicy:
    """`backends.base.Policy` on a transformers model.

    Args:
        model: the model, frozen, its adapter attached.
        adapter: the adapter, or None for a bare model.
        config: the optimiser, or None for a policy that only scores and generates.
        memory: reports the memory in use.
        positions: `backends.base.Policy.positions`.
    """

    def __init__(
        self,
        model: Any,
        adapter: Attached | None,
        config: OptimConfig | None,
        memory: Callable[[], MemoryUse],
        positions: Positions | None = None,
    ) -> None:
        self._model, self._config = model, config
        self._adapter = adapter or Attached({}, {}, [])
        self._gradient: dict[str, torch.Tensor] | None = None
        self._float16 = any(p.dtype == torch.float16 for p in model.parameters())
        self._checkpointed = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
        self.memory, self.positions = memory, positions
        self.notes: tuple[str, ...] = ()
        if config is not None:
            values = {name: leaf.value for name, leaf in self._adapter.leaves.items()}
            self._optimizer = Optimizer(config, values)

    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(leaf.parameter.numel()) for leaf in self._adapter.leaves.values())

    # Forward

    def _mode(self, *, training: bool) -> None:
        """Dropout on or off: the adapter's only, for the base stays as it is used."""
        self._model.eval()
        for layer in self._adapter.layers:
            layer.train(training)
        for layer in self._checkpointed:  # transformers checkpoints while this flag is up; its children stay
            layer.training = training

    def _grid(self, batch: Batch, temperature: float) -> tuple[torch.Tensor, Batch]:
        """The flat grid of log-probabilities, and the batch as tensors."""
        ids, starts = whole_sequences(batch)
        tensors = batch_on(batch, self._model.device)
        return scored_logps(self._model, ids, starts, tensors, temperature), tensors

    def logps(self, batch: Batch, *, temperature: float = 1.0) -> NDArray[np.float32]:
        """(N, T) log-probabilities of the branch tokens under the policy."""
        self._mode(training=False)
        with torch.no_grad():
            grid, tensors = self._grid(batch, temperature)
            return to_numpy(tensors.with_logps(grid)[0])

    def next_logps(self, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(N, V) log-probabilities of every token to come next, each prompt read by itself."""
        self._mode(training=False)

        def after(prompt: Sequence[int]) -> NDArray[np.float32]:
            ids = torch.tensor([list(prompt)], device=self._model.device)
            logits = self._model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]
            return to_numpy(logits.float().log_softmax(dim=-1))

        with torch.no_grad():
            return np.stack([after(prompt) for prompt in prompts])

    def evaluate(self, batch: Batch, objective: Objective) -> Scores:
        """Loss and metrics without gradient, dropout off."""
        self._mode(training=False)
        with torch.no_grad():
            grid, tensors = self._grid(batch, objective.temperature)
            return _scores(_loss(objective, grid, tensors), tensors.with_logps(grid)[0])

    # Training

    def accumulate(
        self, batch: Batch, objective: Objective, counts: Mapping[str, float], *, seed: int
    ) -> Scores:
        """Add one micro-batch's gradient of sum_term sums[term] / counts[term]."""
        self._mode(training=True)
        torch.manual_seed(seed)  # of every device
        cut = pieces(batch, objective.branches_at_once, keep_shape=False)
        return rejoined(batch, cut, [self._accumulate(piece.batch, objective, counts) for piece in cut])

    def _accumulate(self, batch: Batch, objective: Objective, counts: Mapping[str, float]) -> Scores:
        grid, tensors = self._grid(batch, objective.temperature)
        given = grid.detach().requires_grad_()
        loss = _loss(objective, given, tensors)
        value = torch.stack([loss.sums[term] / counts[term] for term in loss.sums]).sum()
        (slopes,) = torch.autograd.grad(value, given)
        # A float16 could not hold them, so its way back begins with at most 1 for a log-probability, and at
        # most SLOPES_MOST for all of them (loss scaling: arXiv:1710.03740).
        sizes = slopes.abs()
        largest = torch.maximum(sizes.max(), sizes.sum() / SLOPES_MOST).clamp(min=SLOPES_LEAST)
        scale = 1 / largest if self._float16 else 1.0
        leaves = self._adapter.leaves
        grads = torch.autograd.grad(
            grid,
            [leaf.parameter for leaf in leaves.values()],
            slopes * scale,
            allow_unused=True,
            materialize_grads=True,
        )
        new = {
            name: leaf.neutral(grad) / scale for (name, leaf), grad in zip(leaves.items(), grads, strict=True)
        }
        if self._gradient is not None:
            new = {name: self._gradient[name] + grad for name, grad in new.items()}
        self._gradient = new
        return _scores(loss, tensors.with_logps(grid)[0])

    def join(self, world: World) -> None:
        """Only alone."""
        if world.size > 1:
            raise UsageError(
                "several ranks train together on the mlx backend only",
                where="backend.name = torch",
                hint="Use --backend mlx, or start it without mlx.launch.",
            )

    def update(self, learning_rate: float) -> Update:
        """Clip, apply if finite, clear."""
        if self._config is None or self._gradient is None:
            raise RuntimeError("update() needs an optimiser and at least one accumulate()")
        gradient, self._gradient = self._gradient, None
        squares = torch.stack([grad.square().sum() for grad in gradient.values()])
        norm = float(squares.sum().sqrt())
        if not math.isfinite(norm):
            return Update(norm, applied=False)
        limit = self._config.max_grad_norm
        if limit and norm > limit:
            gradient = {name: grad * (limit / norm) for name, grad in gradient.items()}
        self._optimizer.update(gradient, learning_rate)
        return Update(norm, applied=True)

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
        self._mode(training=False)
        asked = Asked(prompts, sampling, stop_ids, samples, ended, seed)
        return generation.generate(self._model, asked)

    # State

    def adapter_state(self) -> State:
        """The adapter by mlx-lm's names."""
        return self._adapter.state()

    def load_adapter_state(self, state: State) -> None:
        """Replace the adapter's arrays."""
        self._adapter.load(state)

    def training_state(self) -> State:
        """`optimizer.*` and, in the middle of a window, `gradient.*`."""
        slots = {f"optimizer.{name}": value for name, value in self._optimizer.state().items()}
        return {**slots, **state_of(self._gradient or {}, "gradient")}

    def load_training_state(self, state: State) -> None:
        """Put back what `training_state` returned, here or on another backend.

        Raises:
            UsageError: it belongs to another optimiser or another adapter.
        """
        self._optimizer.load(under(state, "optimizer"))
        saved = under(state, "gradient")
        self._gradient = {
            name: torch.tensor(saved[name], device=leaf.value.device)
            for name, leaf in self._adapter.leaves.items()
        } if saved else None  # fmt: skip

    def save_adapter(self, folder: Path) -> None:
        """Write mlx-lm's adapter files."""
        adapter_files.write(folder, self.adapter_state(), self._adapter.facts)


def _loss(objective: Objective, grid: torch.Tensor, batch: Batch) -> Loss:
    logps, batch = batch.with_logps(grid)
    return objective.method.loss(XP, logps, batch.ref_logps, batch, objective.hp)


def _scores(loss: Loss, logps: torch.Tensor) -> Scores:
    return Scores(
        sums={term: float(value.detach()) for term, value in loss.sums.items()},
        metrics={name: to_numpy(value) for name, value in loss.metrics.items()},
        logps=to_numpy(logps),
    )
