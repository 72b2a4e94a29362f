"""The optimisers, from mlx.optimizers, and the update as one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlx_align.backends.mlx.arrays import Arrays, to_numpy
from mlx_align.config import OptimConfig


class Updater:
    """Clips a gradient and applies it, if it is finite.

    Args:
        config: the optimiser and the norm to clip to.
        adapter: the trained arrays by name.
        compiled: whether MLX compiles the update.

    Attributes:
        state: the optimiser's arrays, as mlx.optimizers nests them.
        traces: how many traces have been made so far: one, once it is compiled and has been used.
    """

    def __init__(self, config: OptimConfig, adapter: Arrays, compiled: bool) -> None:
        self._optimizer = build(config)
        self._limit = config.max_grad_norm
        self._optimizer.init(tree_unflatten(list(adapter.items())))
        self.state: Any = self._optimizer.state
        self.traces = 0
        self._pure: Callable[..., Any] = mx.compile(self._counted) if compiled else self._update

    def apply(self, adapter: Arrays, gradient: Arrays, learning_rate: float) -> tuple[Arrays, float]:
        """The adapter after one update, and the gradient's norm before clipping.

        If the norm is not finite, adapter and optimiser stay what they are.
        """
        state = {**self.state, "learning_rate": mx.array(learning_rate)}
        adapter, self.state, norm = self._pure(adapter, gradient, state)
        mx.eval(adapter, self.state, norm)
        self._optimizer.state = self.state  # else it keeps a second copy, from before `if_finite`
        return adapter, float(to_numpy(norm))

    def _counted(self, adapter: Arrays, gradient: Arrays, state: Any) -> tuple[Arrays, Any, mx.array]:
        self.traces += 1
        return self._update(adapter, gradient, state)

    def _update(self, adapter: Arrays, gradient: Arrays, state: Any) -> tuple[Arrays, Any, mx.array]:
        gradient = {name: grad.astype(mx.float32) for name, grad in gradient.items()}
        norm = mx.sqrt(mx.stack([mx.square(grad).sum() for grad in gradient.values()]).sum())
        if self._limit:
            factor = mx.where(norm > self._limit, self._limit / norm, 1.0)
            gradient = {name: grad * factor for name, grad in gradient.items()}
        self._optimizer.state = tree_map(lambda array: array, state)  # a copy: it counts steps in place
        before = tree_unflatten(list(adapter.items()))
        after = self._optimizer.apply_gradients(tree_unflatten(list(gradient.items())), before)

        def if_finite(new: mx.array, old: mx.array) -> mx.array:
            return mx.where(mx.isfinite(norm), new, old)

        kept = dict(tree_flatten(tree_map(if_finite, after, before)))
        return kept, tree_map(if_finite, self._optimizer.state, state), norm


def build(config: OptimConfig) -> optim.Optimizer:
    """The configured optimiser; the trainer sets its learning rate before each update.

    Adam and AdamW get the bias correction of the papers, which MLX leaves off by default and without which
    the first updates are far too large. Adafactor gets the schedule's rate instead of its own relative one.
    """
    match config.name:
        case "adamw":
            return optim.AdamW(config.lr, weight_decay=config.weight_decay, bias_correction=True)
        case "adam":
            return optim.Adam(config.lr, bias_correction=True)
        case "adafactor":
            return optim.Adafactor(config.lr, scale_parameter=False, relative_step=False)
        case "lion":
            return optim.Lion(config.lr, weight_decay=config.weight_decay)
        case "muon":
            return optim.Muon(config.lr, weight_decay=config.weight_decay)
