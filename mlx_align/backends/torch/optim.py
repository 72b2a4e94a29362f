"""The optimisers: the update rules of mlx.optimizers, as `backends/mlx/optim.py` configures them.

Each rule works in place on parameters in the neutral layout and keeps its slots under the names MLX gives
them, so a checkpoint written by one backend is continued by the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch.optim.adamw import adamw

from mlx_align.backends.base import State
from mlx_align.backends.torch.arrays import to_numpy
from mlx_align.config import OptimConfig
from mlx_align.errors import UsageError

Slots = dict[str, torch.Tensor]
"""One parameter's state: slot name -> tensor, float32."""


class Rule(Protocol):
    """How one parameter changes."""

    def slots(self, parameter: torch.Tensor) -> Slots:
        """The state before the first update: zeros."""

    def apply(
        self, parameter: torch.Tensor, gradient: torch.Tensor, slots: Slots, rate: float, step: int
    ) -> None:
        """One update in place.

        Args:
            parameter: float32, a matrix or a vector, in the neutral layout.
            gradient: of the same shape; it may be overwritten.
            slots: from `slots`, changed in place.
            rate: learning rate.
            step: the update's number, from 1.
        """


class Adam:
    """Adam with bias correction, and AdamW's decoupled weight decay.

    Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; Loshchilov and Hutter 2019, arXiv:1711.05101,
    algorithm 2. Computed by torch.optim.
    """

    def __init__(self, weight_decay: float = 0.0) -> None:
        self._weight_decay = weight_decay

    def slots(self, parameter: torch.Tensor) -> Slots:
        """First moment m and second moment v."""
        return {"m": torch.zeros_like(parameter), "v": torch.zeros_like(parameter)}

    def apply(
        self, parameter: torch.Tensor, gradient: torch.Tensor, slots: Slots, rate: float, step: int
    ) -> None:
        """In place: w <- (1 - lr decay) w - lr m^ / (sqrt(v^) + eps)."""
        adamw(
            [parameter],
            [gradient],
            [slots["m"]],
            [slots["v"]],
            [],
            [torch.tensor(float(step - 1))],  # it counts the update itself
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )


class Lion:
    """Lion: the sign of an interpolated momentum.

    Chen et al. 2023, arXiv:2302.06675, algorithm 2.
    """

    BETA1, BETA2 = 0.9, 0.99

    def __init__(self, weight_decay: float = 0.0) -> None:
        self._weight_decay = weight_decay

    def slots(self, parameter: torch.Tensor) -> Slots:
        """Momentum m."""
        return {"m": torch.zeros_like(parameter)}

    def apply(
        self, parameter: torch.Tensor, gradient: torch.Tensor, slots: Slots, rate: float, step: int
    ) -> None:
        """In place: w <- (1 - lr decay) w - lr sign(b1 m + (1 - b1) g);  m <- b2 m + (1 - b2) g."""
        m = slots["m"]
        direction = self.BETA1 * m + (1 - self.BETA1) * gradient
        m.mul_(self.BETA2).add_(gradient, alpha=1 - self.BETA2)
        parameter.mul_(1 - rate * self._weight_decay).sub_(direction.sign(), alpha=rate)


class Adafactor:
    """Adafactor with the schedule's own rate: no relative step, no parameter scaling, no first moment.

    Shazeer and Stern 2018, arXiv:1804.04235: the factored second moment is algorithm 4, its decay
    1 - t^-0.8 is section 7.2, and the clipping of the update at RMS 1 is section 6.
    """

    EPS, DECAY, CLIP = 1e-30, -0.8, 1.0

    def slots(self, parameter: torch.Tensor) -> Slots:
        """Row and column means of the squared gradient of a matrix; a vector has the whole of it."""
        if parameter.ndim < 2:
            return {"exp_avg_sq": torch.zeros_like(parameter)}
        rows, columns = parameter.shape
        return {"exp_avg_sq_row": parameter.new_zeros(rows), "exp_avg_sq_col": parameter.new_zeros(columns)}

    def apply(
        self, parameter: torch.Tensor, gradient: torch.Tensor, slots: Slots, rate: float, step: int
    ) -> None:
        """In place: w <- w - lr u / max(1, RMS(u)) with u = g / sqrt(v), v factored."""
        beta = 1.0 - step**self.DECAY
        square = gradient.square() + self.EPS
        if parameter.ndim < 2:
            scale = slots["exp_avg_sq"].mul_(beta).add_(square, alpha=1 - beta).rsqrt()
        else:
            row = slots["exp_avg_sq_row"].mul_(beta).add_(square.mean(dim=-1), alpha=1 - beta)
            column = slots["exp_avg_sq_col"].mul_(beta).add_(square.mean(dim=-2), alpha=1 - beta)
            scale = (row / row.mean()).rsqrt()[:, None] * column.rsqrt()[None, :]
        update = scale * gradient
        rms = update.square().mean().sqrt()
        parameter.sub_(rate * update / torch.clamp(rms / self.CLIP, min=1.0))


class Muon:
    """Muon: Nesterov momentum, orthogonalised by five Newton-Schulz steps; a vector is not orthogonalised.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. As in mlx.optimizers the weight decay is
    an L2 penalty. The factor sqrt(max(1, rows / columns)) depends on the orientation of the matrix, so it is
    that of the neutral layout.
    """

    MOMENTUM, STEPS = 0.95, 5
    A, B, C = 3.4445, -4.7750, 2.0315

    def __init__(self, weight_decay: float = 0.0) -> None:
        self._weight_decay = weight_decay

    def slots(self, parameter: torch.Tensor) -> Slots:
        """Momentum v."""
        return {"v": torch.zeros_like(parameter)}

    def apply(
        self, parameter: torch.Tensor, gradient: torch.Tensor, slots: Slots, rate: float, step: int
    ) -> None:
        """In place: w <- w - lr sqrt(max(1, rows / columns)) orthogonal(nesterov(g))."""
        gradient = gradient + self._weight_decay * parameter
        v = slots["v"].mul_(self.MOMENTUM).add_(gradient, alpha=1 - self.MOMENTUM)
        update = gradient * (1 - self.MOMENTUM) + v * self.MOMENTUM
        if update.ndim >= 2:
            update = self._orthogonal(update)
            rate *= max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        parameter.sub_(update, alpha=rate)

    def _orthogonal(self, x: torch.Tensor) -> torch.Tensor:
        """A matrix with the singular vectors of x and singular values near 1."""
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (torch.linalg.norm(x) + 1e-7)
        for _ in range(self.STEPS):
            gram = x @ x.T
            x = self.A * x + (self.B * gram + self.C * (gram @ gram)) @ x
        return x.T if tall else x


def build(config: OptimConfig) -> Rule:
    """The configured rule; Adam's kin have the papers' bias correction, as on the MLX backend."""
    match config.name:
        case "adamw":
            return Adam(config.weight_decay)
        case "adam":
            return Adam()
        case "adafactor":
            return Adafactor()
        case "lion":
            return Lion(config.weight_decay)
        case "muon":
            return Muon(config.weight_decay)


class Optimizer:
    """A rule, the parameters it changes and their slots.

    Args:
        config: which rule.
        parameters: neutral name -> tensor in the neutral layout; written to in place.
    """

    def __init__(self, config: OptimConfig, parameters: Mapping[str, torch.Tensor]) -> None:
        self._rule = build(config)
        self._parameters = dict(parameters)
        self._slots = {name: self._rule.slots(value) for name, value in self._parameters.items()}
        self._step, self._rate = 0, config.lr

    def update(self, gradients: Mapping[str, torch.Tensor], rate: float) -> None:
        """One update of every parameter.

        Args:
            gradients: neutral name -> float32 in the neutral layout.
            rate: learning rate.
        """
        self._step, self._rate = self._step + 1, rate
        for name, parameter in self._parameters.items():
            self._rule.apply(parameter, gradients[name], self._slots[name], rate, self._step)

    def state(self) -> State:
        """Step, rate and slots, by the names and in the types of mlx.optimizers."""
        tensors = {f"{name}.{key}": v for name, slots in self._slots.items() for key, v in slots.items()}
        return {
            "step": np.array(self._step, np.uint64),
            "learning_rate": np.array(self._rate, np.float32),
            **{name: to_numpy(value) for name, value in tensors.items()},
        }

    def load(self, state: State) -> None:
        """Put back what `state` returned, here or on another backend.

        Raises:
            UsageError: it is the state of another optimiser or of another adapter.
        """
        expected = self.state()
        for scalar in ("step", "learning_rate"):  # come back from a file as arrays of one number
            if scalar in state:
                state = {**state, scalar: state[scalar].reshape(-1)[0]}
        wrong = sorted(
            name for name in expected.keys() | state.keys()
            if name not in state or name not in expected or state[name].shape != expected[name].shape
        )  # fmt: skip
        if wrong:
            raise UsageError(
                f"the saved optimiser state is not one of this optimiser: {len(wrong)} arrays differ",
                where=wrong[0],
                hint="Resume with the configuration the checkpoint was written with.",
            )
        self._step, self._rate = int(state["step"]), float(state["learning_rate"])
        for name, slots in self._slots.items():
            for key, tensor in slots.items():
                tensor.copy_(torch.tensor(state[f"{name}.{key}"]))
