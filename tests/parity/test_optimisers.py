"""The same gradients give the same parameters, update for update, and the state changes hands."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten, tree_unflatten

from mlx_align.backends.base import State
from mlx_align.backends.mlx import optim as mlx_optim
from mlx_align.backends.mlx.arrays import state_of, tree_of
from mlx_align.backends.torch import optim as torch_optim
from mlx_align.config import OptimConfig
from mlx_align.errors import UsageError

SHAPES = {
    "model.layers.1.self_attn.q_proj.lora_a": (24, 4),  # tall
    "model.layers.1.self_attn.q_proj.lora_b": (4, 16),  # wide
    "model.layers.1.self_attn.q_proj.m": (16,),
    "model.layers.2.mlp.up_proj.lora_a": (4, 4),
}
CASES: dict[str, dict[str, Any]] = {
    "adamw": {"weight_decay": 0.1},
    "adam": {},
    "adafactor": {},
    "lion": {"weight_decay": 0.1},
    "muon": {"weight_decay": 0.1},
    "adamw without decay": {},
    "muon without decay": {},
}
STEPS = 5
ATOL = 1e-5


def config(case: str) -> OptimConfig:
    return OptimConfig(name=case.split()[0], lr=0.02, **CASES[case])


def random_arrays(seed: int) -> State:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}


def rate(step: int) -> float:
    return 0.02 * (1 - step / 10)


class Mlx:
    """mlx.optimizers as the MLX backend has them."""

    def __init__(self, case: str, parameters: State) -> None:
        self._optimizer = mlx_optim.build(config(case))
        self._tree = self._to_tree(parameters)
        self._optimizer.init(self._tree)

    @staticmethod
    def _to_tree(arrays: State) -> Any:
        return tree_unflatten([(name, mx.array(value)) for name, value in arrays.items()])

    def update(self, step: int) -> None:
        self._optimizer.learning_rate = rate(step)
        self._tree = self._optimizer.apply_gradients(self._to_tree(random_arrays(100 + step)), self._tree)

    @property
    def parameters(self) -> State:
        return {name: np.array(value) for name, value in tree_flatten(self._tree)}

    @property
    def state(self) -> State:
        return state_of(self._optimizer.state, "optimizer")

    def load(self, state: State) -> None:
        self._optimizer.state = tree_of(state, "optimizer")


class Torch:
    """Ours."""

    def __init__(self, case: str, parameters: State) -> None:
        self._values = {name: torch.tensor(value) for name, value in parameters.items()}
        self._optimizer = torch_optim.Optimizer(config(case), self._values)

    def update(self, step: int) -> None:
        gradients = {name: torch.tensor(value) for name, value in random_arrays(100 + step).items()}
        self._optimizer.update(gradients, rate(step))

    @property
    def parameters(self) -> State:
        return {name: value.numpy() for name, value in self._values.items()}

    @property
    def state(self) -> State:
        return {f"optimizer.{name}": value for name, value in self._optimizer.state().items()}

    def load(self, state: State) -> None:
        self._optimizer.load({name.removeprefix("optimizer."): value for name, value in state.items()})


def assert_same(mlx: Mlx | Torch, ours: Mlx | Torch) -> None:
    for name, value in mlx.parameters.items():
        np.testing.assert_allclose(ours.parameters[name], value, atol=ATOL, err_msg=name)
    assert mlx.state.keys() == ours.state.keys()
    for name, value in mlx.state.items():
        assert ours.state[name].dtype == value.dtype, name
        np.testing.assert_allclose(ours.state[name], value, atol=ATOL, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_five_updates(case: str) -> None:
    mlx, ours = Mlx(case, random_arrays(0)), Torch(case, random_arrays(0))
    assert_same(mlx, ours)
    for step in range(STEPS):
        mlx.update(step)
        ours.update(step)
        assert_same(mlx, ours)
    errors = [np.abs(ours.parameters[n] - v).max() for n, v in mlx.parameters.items()]
    moved = min(np.abs(v - random_arrays(0)[n]).max() for n, v in mlx.parameters.items())
    print(f"largest difference {max(errors):.1e}, smallest movement {moved:.2f}")
    assert moved > 0.01


@pytest.mark.parametrize("first", [Mlx, Torch])
@pytest.mark.parametrize("case", CASES)
def test_the_other_goes_on(case: str, first: type[Mlx | Torch]) -> None:
    """Three updates here, the state handed over, three more there: as if nothing had happened."""
    second = Torch if first is Mlx else Mlx
    alone, begun = Mlx(case, random_arrays(0)), first(case, random_arrays(0))
    for step in range(3):
        alone.update(step)
        begun.update(step)
    ended = second(case, begun.parameters)
    ended.load(begun.state)
    for step in range(3, 6):
        alone.update(step)
        ended.update(step)
    assert_same(alone, ended)


@pytest.mark.parametrize("case", CASES)
def test_the_layout_of_the_parameter_does_not_matter(case: str) -> None:
    """The policy gives views of transposed parameters: written through, and no other numbers come out."""
    plain, views = Torch(case, random_arrays(0)), Torch(case, random_arrays(0))
    kept = {name: value.T.contiguous() for name, value in views._values.items() if value.ndim == 2}
    views._values = {name: kept[name].T if name in kept else value for name, value in views._values.items()}
    views._optimizer = torch_optim.Optimizer(config(case), views._values)
    for step in range(STEPS):
        plain.update(step)
        views.update(step)
    for name, value in plain.parameters.items():
        np.testing.assert_allclose(views.parameters[name], value, atol=1e-6)
    for name, value in kept.items():
        assert (value.T.numpy() == views.parameters[name]).all()


def test_the_state_of_another_optimiser_is_refused() -> None:
    with pytest.raises(UsageError, match="not one of this optimiser"):
        Torch("lion", random_arrays(0)).load(Torch("adamw", random_arrays(0)).state)
