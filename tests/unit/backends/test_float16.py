"""A float16 model has the gradient of the float32 one, however many tokens the loss is a mean over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlx_align import backends, embedded
from mlx_align.backends.base import Objective, Policy, State
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import collate
from tests import support

MANY = 1e5
"""The window has so many batches like the one at hand."""
GROUP = 4


def policy(backend: str, dtype: str, **options: Any) -> Policy:
    config = BackendConfig(name=backend, device="cpu", dtype=dtype, **options)
    made = backends.create(config).load_policy(
        embedded.model_folder(), AdapterConfig(rank=4), OptimConfig(), 0
    )
    made.load_adapter_state(support.disturbed(made.adapter_state()))
    return made


def gradient(policy: Policy, batch: Batch, objective: Objective) -> State:
    counts = {term: n * MANY for term, n in objective.method.counts(batch, objective.hp).items()}
    policy.accumulate(batch, objective, counts, seed=0)
    state = policy.training_state()
    return {name: x for name, x in state.items() if name.startswith("gradient.")}


def group() -> Batch:
    """Completions of one prompt, better and worse."""
    rng = np.random.default_rng(0)
    example = support.examples("completion")[0]
    ids = tuple(tuple(rng.integers(10, 200, n).tolist()) for n in (9, 3, 12, 6))
    batch = collate([replace(example, branch_ids=ids)])
    return replace(batch, advantages=rng.normal(size=GROUP).astype(np.float32))


def error(got: State, want: State) -> float:
    """The distance of two gradients, as a share of the length."""
    return norm({name: got[name] - x for name, x in want.items()}) / norm(want)


def norm(state: State) -> float:
    return float(np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in state.values())))


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_many_tokens_do_not_make_the_gradient_vanish(backend: str) -> None:
    batch, objective = collate(support.examples()[:3]), support.objective("orpo")
    want, got = (gradient(policy(backend, dtype), batch, objective) for dtype in ("float32", "float16"))
    assert {x.dtype for x in got.values()} == {np.dtype(np.float32)}
    assert error(got, want) < 4e-3


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_nor_that_of_a_group_in_pieces(compiled: str) -> None:
    """Whose derivatives by the prompt's keys and values are added up between two functions."""
    batch = group()
    objective = replace(support.objective("grpo", group_size=GROUP), branches_at_once=3)
    want = gradient(policy("mlx", "float32"), batch, objective)
    got = gradient(policy("mlx", "float16", compile=compiled), batch, objective)
    assert error(got, want) < 4e-3


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_gradient_of_zero_stays_zero(backend: str) -> None:
    batch, objective = group(), support.objective("grpo", group_size=GROUP)
    silent = replace(batch, advantages=np.zeros(GROUP, np.float32))
    assert norm(gradient(policy(backend, "float16"), silent, objective)) == 0.0
