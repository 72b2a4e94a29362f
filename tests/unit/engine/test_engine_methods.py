"""Every method and variant trains: it starts where its formula says, and moves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_align.runs import RunDirectory
from tests import support

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("sft", {}),
    ("orpo", {}),
    ("orpo", {"nll": "prompt+response"}),
    ("dpo", {}),
    ("dpo", {"loss_type": "ipo"}),
    ("dpo", {"loss_type": "hinge"}),
    ("dpo", {"label_smoothing": 0.1}),
    ("simpo", {"gamma": 0.5}),
]
AT_THE_REFERENCE = {"sigmoid": math.log(2), "ipo": (1 / (2 * 0.1)) ** 2, "hinge": 1.0}
"""DPO's loss while the policy is still the reference, by its formulas at h = 0."""


def lora_b(path: Path) -> dict[str, np.ndarray]:
    arrays = load_file(path / "adapters.safetensors")
    return {name: value for name, value in arrays.items() if name.endswith("lora_b")}


def start_of(run: RunDirectory) -> Path:
    return run.path / "checkpoints" / "step-000000"


@pytest.mark.parametrize(("method", "hp"), VARIANTS)
def test_it_trains(tmp_path: Path, brief: dict[str, Any], method: str, hp: dict[str, Any]) -> None:
    options = {f"method__{key}": value for key, value in hp.items()}
    run = support.new_run(tmp_path / "runs", method, **brief, **options, checkpoint__keep=9)
    assert support.engine(run) == 0
    state = run.state()
    for step in state.steps:
        assert not step.skipped
        assert step.loss is not None
        assert step.grad_norm is not None
        assert step.grad_norm > 0
        assert None not in step.metrics.values()
    assert not any(value.any() for value in lora_b(start_of(run)).values())
    moved = lora_b(run.path / "checkpoints" / "step-000002")
    assert all(np.isfinite(value).all() and value.any() for value in moved.values())
    pairs = {"chosen_reward", "rejected_reward", "margin", "accuracy"}
    assert pairs.isdisjoint(state.steps[0].metrics) == (method == "sft")
    if method == "dpo":
        expected = AT_THE_REFERENCE[hp.get("loss_type", "sigmoid")]
        assert state.steps[0].loss == pytest.approx(expected, rel=1e-6)
        # Up to rounding: the reference was scored in batches of another shape.
        assert state.steps[0].metrics["margin"] == pytest.approx(0.0, abs=1e-5)


def test_scoring_the_prompt_too_is_another_loss(tmp_path: Path, brief: dict[str, Any]) -> None:
    losses = []
    for nll in ("response", "prompt+response"):
        run = support.new_run(tmp_path / "runs", "orpo", **{**brief, "train__steps": 1}, method__nll=nll)
        assert support.engine(run) == 0
        losses.append(run.state().steps[0].loss)
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


def test_training_lowers_the_loss(tmp_path: Path, brief: dict[str, Any]) -> None:
    run = support.new_run(tmp_path / "runs", "orpo", **{**brief, "train__steps": 8}, optim__lr=1e-3)
    assert support.engine(run) == 0
    first, last = (event.metrics["loss"] for event in run.state().evals)
    assert first is not None
    assert last is not None
    assert last < first


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_chosen_modules_and_layers_get_arrays_and_no_others(
    tmp_path: Path, brief: dict[str, Any], kind: str
) -> None:
    options = {"adapter__type": kind, "adapter__modules": ["q_proj", "mlp.up_proj"], "adapter__layers": 2}
    run = support.new_run(tmp_path / "runs", **{**brief, **options})
    assert support.engine(run) == 0
    leaves = ("lora_a", "lora_b", *(["m"] if kind == "dora" else []))
    assert set(load_file(run.adapter / "adapters.safetensors")) == {
        f"model.layers.{layer}.{module}.{leaf}"
        for layer in (2, 3)
        for module in ("self_attn.q_proj", "mlp.up_proj")
        for leaf in leaves
    }
    state = run.state()
    assert state.started is not None
    sizes = [value.size for value in load_file(run.adapter / "adapters.safetensors").values()]
    assert state.started.trainable_parameters == sum(sizes)
