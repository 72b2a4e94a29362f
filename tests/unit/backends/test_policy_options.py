"""What `backend.compile` and `backend.checkpointing` change, and what they must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mlx_align import backends, embedded
from mlx_align.backends.base import Objective, Policy, State
from mlx_align.batch import Batch
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import Example, Shape, collate
from tests import support


def policy(name: str = "mlx", model: Path | None = None, **options: Any) -> Policy:
    made = backends.create(BackendConfig(name=name, device="cpu", **options)).load_policy(
        model or embedded.model_folder(), AdapterConfig(rank=4), OptimConfig(), 0
    )
    made.load_adapter_state(support.disturbed(made.adapter_state()))
    return made


def trained(policy: Policy, count: int = 3) -> tuple[dict[str, np.ndarray], list[float]]:
    """The adapter and losses after some updates of two micro-batches each."""
    objective = support.objective("orpo")
    losses = []
    for step in range(count):
        batches = [collate(support.examples()[i : i + 2]) for i in (4 * step, 4 * step + 2)]
        counts: dict[str, float] = {}
        for batch in batches:
            for term, n in objective.method.counts(batch, objective.hp).items():
                counts[term] = counts.get(term, 0.0) + n
        scores = [policy.accumulate(batch, objective, counts, seed=step) for batch in batches]
        losses.append(sum(s.sums[term] / counts[term] for s in scores for term in s.sums))
        assert policy.update(1e-3).applied
    return policy.adapter_state(), losses


def assert_close(got: tuple[Any, list[float]], want: tuple[Any, list[float]]) -> None:
    np.testing.assert_allclose(got[1], want[1], rtol=1e-5)
    for name, value in want[0].items():
        assert np.abs(got[0][name] - value).max() < 2e-5, name


def test_compiling_changes_nothing_where_prompts_are_scored() -> None:
    objective = support.objective("orpo", nll="prompt+response")
    batch = collate(support.examples()[:2], scores_prompt=True)
    got, want = (gradient(policy(compile=compiled), batch, objective) for compiled in ("on", "off"))
    for name, value in want.items():
        assert np.abs(got[name] - value).max() <= 1e-5 * np.abs(value).max(), name


def test_compiling_changes_nothing_and_traces_each_shape_once() -> None:
    compiled = policy(compile="on")
    assert_close(trained(compiled), trained(policy(compile="off")))
    before = compiled.memory().traces
    assert before >= 1
    batch = collate(support.examples()[:2])
    objective = support.objective("orpo")
    counts = objective.method.counts(batch, objective.hp)
    compiled.accumulate(batch, objective, counts, seed=0)
    again = compiled.memory().traces
    compiled.accumulate(batch, objective, counts, seed=1)
    assert compiled.memory().traces == again
    compiled.accumulate(collate(support.examples()[:2], pad_to=128), objective, counts, seed=1)
    assert compiled.memory().traces == again + 1


def rollout(seed: int, longest: int) -> Batch:
    """Two groups of five completions of at most so many tokens, of the one shape that all rollouts have."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in range(2):
        lengths = [longest, *rng.integers(1, longest, 4).tolist()]
        ids = tuple(tuple(rng.integers(10, 200, n).tolist()) for n in lengths)
        rows.append(Example(f"row:{row}", (5, 6, 7), ids, "", "", ("",) * 5))
    batch = collate(rows, shape=Shape(rows=2, prompt=16, branch=16, scored=128))
    return replace(batch, advantages=rng.normal(size=10).astype(np.float32))


def gradient(policy: Policy, batch: Batch, objective: Objective) -> State:
    policy.accumulate(batch, objective, objective.method.counts(batch, objective.hp), seed=0)
    state = policy.training_state()
    policy.discard()
    return {name: value for name, value in state.items() if name.startswith("gradient.")}


def test_pieces_of_a_group_are_traced_once_however_long_they_are() -> None:
    compiled, plain = policy(compile="on"), policy(compile="off")
    whole = support.objective("grpo", group_size=5)
    traces = []
    for batch in (rollout(0, 16), rollout(1, 16), rollout(2, 9)):
        got = gradient(compiled, batch, replace(whole, branches_at_once=2))
        traces.append(compiled.memory().traces)
        for name, value in gradient(plain, batch, whole).items():
            assert np.abs(got[name] - value).max() < 1e-5 * np.abs(value).max(), name
    # The prompts, there and back; pieces of two branches, and of the last one.
    assert traces == [4, 4, 4]


def test_nothing_is_traced_without_compiling() -> None:
    plain = policy(compile="off")
    trained(plain, 1)
    assert plain.memory().traces == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlx", {"checkpointing": "attention"}),
        ("mlx", {"checkpointing": "attention", "compile": "on"}),
        ("mlx", {"checkpointing": "layers"}),
        ("mlx", {"checkpointing": "layers", "compile": "on"}),
        ("torch", {"checkpointing": "layers"}),
    ],
)
def test_checkpointing_trains_the_same_adapter(name: str, options: dict[str, Any]) -> None:
    assert_close(trained(policy(name, **options)), trained(policy(name)))


def test_torch_checkpoints_only_while_it_trains() -> None:
    checkpointed: Any = policy("torch", checkpointing="layers")
    assert checkpointed._checkpointed
    trained(checkpointed, 1)
    assert all(layer.training for layer in checkpointed._checkpointed)
    checkpointed.logps(collate(support.examples()[:2]))
    assert not any(layer.training for layer in checkpointed._checkpointed)


@pytest.mark.parametrize("options", [{"compile": "on"}, {"compile": "off"}, {"checkpointing": "attention"}])
def test_options_of_mlx_are_refused_for_torch(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="torch"):
        BackendConfig(name="torch", **options)
