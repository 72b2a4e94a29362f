"""A float16 model has the gradient of the float32 one, however many tokens the loss is a mean over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_align import backends, embedded
from mlx_align.backends.base import Objective, Policy, State
from mlx_align.backends.mlx.probe import choose
from mlx_align.backends.mlx.step import Functions
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import collate
from tests import support

MANY = 1e5
"""The window has so many batches like the one at hand."""
GROUP = 4
LARGE = 4.0
"""An adapter's derivatives, so many times larger, do not fit into a float16 if 16,384 are added up."""


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


@pytest.mark.parametrize("nll", ["response", "prompt+response"])
@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_many_tokens_do_not_make_the_gradient_vanish(backend: str, nll: str) -> None:
    objective = support.objective("orpo", nll=nll)
    batch = collate(support.examples()[:3], scores_prompt=objective.method.scores_prompt(objective.hp))
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


def test_nor_does_a_sum_over_the_tokens_of_long_prompts_become_infinite() -> None:
    """Their derivatives have the same sign where all of them help."""

    def through(dtype: str) -> State:
        made: Any = policy("mlx", dtype)
        made.load_adapter_state(
            {name: x * (LARGE if name.endswith("lora_a") else 1) for name, x in made.adapter_state().items()}
        )
        model = made._model
        model.model.layers = model.model.layers[:1]  # whose keys and values are quickly had
        functions = Functions(model, choose(model).forward, False, [])
        prefixes, key = mx.full((64, 256), 5, mx.int32), mx.random.key(0)
        by_held = [[mx.ones(x.shape) for x in pair] for pair in functions.prefixes(prefixes, key)]
        gradient = functions.through_prefixes(prefixes, key, by_held)
        return {name: np.array(x) for name, x in gradient.items()}

    want, got = through("float32"), through("float16")
    assert error(got, want) < 4e-3


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_gradient_of_zero_stays_zero(backend: str) -> None:
    batch, objective = group(), support.objective("grpo", group_size=GROUP)
    silent = replace(batch, advantages=np.zeros(GROUP, np.float32))
    assert norm(gradient(policy(backend, "float16"), silent, objective)) == 0.0
