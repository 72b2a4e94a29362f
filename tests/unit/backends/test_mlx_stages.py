"""A graph computed in stages: what is noted, and that nothing of the results depends on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_align import backends, embedded
from mlx_align.backends.mlx import cpu, lanes
from mlx_align.backends.mlx.checkpointing import Checkpointing
from mlx_align.backends.mlx.lanes import Lanes
from mlx_align.backends.mlx.probe import choose
from mlx_align.backends.mlx.stages import Stages, evaluate
from mlx_align.backends.mlx.substitutes import scope
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.data import collate
from tests import support
from tests.unit.backends.mlx_models import SHARED, build


def names(taken: list[list[mx.array]], arrays: dict[str, mx.array]) -> list[set[str]]:
    by_id = {id(array): name for name, array in arrays.items()}
    return [{by_id[id(array)] for array in stage} for stage in taken]


def test_only_a_forward_pass_is_noted() -> None:
    made = {name: mx.array(1.0) for name in ("before", "within", "after")}
    own = Stages(wanted=True)
    own.after(made["before"])
    with own.forward():
        own.after(made["within"])
    own.after(made["after"])
    assert names(own.taken(), made) == [{"within"}]
    assert own.taken() == []


def test_the_way_back_goes_from_the_last_layer_to_the_first() -> None:
    gradient = {
        name: mx.array(1.0)
        for name in ("model.embed", "model.layers.2.q.a", "model.layers.10.q.a", "model.layers.2.q.b")
    }
    own = Stages(wanted=True)
    own.backward(gradient)
    assert names(own.taken(), gradient) == [
        {"model.layers.10.q.a"},
        {"model.layers.2.q.a", "model.layers.2.q.b"},
        {"model.embed"},
    ]


def test_where_none_are_wanted_nothing_is_kept() -> None:
    own = Stages(wanted=False)
    with own.forward():
        own.after(mx.array(1.0))
    own.backward({"layers.0": mx.array(1.0)})
    assert own.taken() == []


def test_stages_are_computed_in_turn_and_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    given = [[mx.array(n)] for n in range(3)]
    monkeypatch.setattr(mx, "eval", lambda arrays: left.append((int(arrays[0].item()), len(given))))
    evaluate(given)
    assert left == [(0, 2), (1, 1), (2, 0)]


def test_a_lane_computes_its_own_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = Stages(wanted=True), []
    monkeypatch.setattr(lanes, "evaluate", lambda noted: seen.append([int(x.item()) for [x] in noted]))

    def build(n: int) -> mx.array:
        with own.forward():
            own.after(mx.array(n))
        return mx.array(n)

    Lanes(2, stages=own).map(build, [3, 5, 7])
    assert sorted(seen) == [[3], [5], [7]]


def test_what_cannot_be_built_leaves_no_stages() -> None:
    own = Stages(wanted=True)

    def build(n: int) -> mx.array:
        with own.forward():
            own.after(mx.array(n))
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Lanes(1, stages=own).map(build, [1, 2])
    assert own.taken() == []


Made = dict[str, Any]


def gradient_of(checkpointing: Checkpointing, at_once: int | None = None) -> Made:
    """The gradient by a batch; `at_once`: of groups, of which so many branches are read at once."""
    backend = backends.create(BackendConfig(device="cpu", checkpointing=checkpointing))
    policy = backend.load_policy(embedded.model_folder(), AdapterConfig(rank=2), OptimConfig(), 0)
    batch, objective = collate(support.examples()[:3]), support.objective("orpo")
    if at_once:
        advantages = np.linspace(-1, 1, len(batch.branch_ids), dtype=np.float32)
        batch = replace(batch, advantages=advantages)
        objective = replace(support.objective("grpo", group_size=2), branches_at_once=at_once)
    logps = policy.logps(batch)
    policy.accumulate(batch, objective, objective.method.counts(batch, objective.hp), seed=0)
    return {"logps": logps, **policy.training_state()}


@pytest.mark.parametrize(
    ("checkpointing", "at_once"), [("none", None), ("attention", None), ("layers", None), ("none", 1)]
)
def test_results_are_the_same_to_the_bit(
    checkpointing: Checkpointing, at_once: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counting(noted: list[list[mx.array]]) -> None:
        counts.append(len(noted))
        evaluate(noted)

    monkeypatch.setattr(lanes, "evaluate", counting)
    staged = gradient_of(checkpointing, at_once)
    monkeypatch.setattr(lanes, "evaluate", lambda noted: noted.clear())
    whole = gradient_of(checkpointing, at_once)
    assert min(counts) > 2
    for name, array in staged.items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


@pytest.mark.parametrize(("name", "wanted"), [("qwen3", 4), ("gemma4_text", 1)])
def test_of_prompts_only_what_keys_and_values_need_is_computed(name: str, wanted: int) -> None:
    """Two layers of Qwen's three, attention and MLP; one attention of Gemma's four: two layers have keys."""
    kind, facts = SHARED[name]
    model = build(kind, **facts)
    own = Stages(wanted=True)
    forward = replace(choose(model).forward, stages=own)
    with scope(model, cpu.substitutes(own))():
        forward.held(mx.array([[1, 2, 3]]))
    assert len(own.taken()) == wanted


def test_layers_that_are_computed_again_are_noted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, list[int]] = {}
    ways: tuple[Checkpointing, ...] = ("none", "attention", "layers")
    for way in ways:
        seen = counts.setdefault(way, [])
        monkeypatch.setattr(lanes, "evaluate", lambda noted, seen=seen: seen.append(len(noted)))
        gradient_of(way)
    assert sorted(counts["none"]) == sorted(counts["attention"]) == sorted(counts["layers"])
