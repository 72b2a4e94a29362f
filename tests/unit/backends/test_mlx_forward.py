"""Reading prompts once: the same log-probabilities and gradients as every branch alone, unpadded."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import make_prompt_cache

from mlx_align.backends.base import MemoryUse, Sampling
from mlx_align.backends.mlx import cpu
from mlx_align.backends.mlx.caches import trouble_together
from mlx_align.backends.mlx.checkpointing import Checkpointing, checkpointed
from mlx_align.backends.mlx.forward import Forward
from mlx_align.backends.mlx.lora import prepare, set_keys
from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.backends.mlx.prefix import Recorder
from mlx_align.backends.mlx.probe import choose
from mlx_align.backends.mlx.stages import Stages
from mlx_align.backends.mlx.step import to_arrays, to_batch
from mlx_align.backends.mlx.substitutes import scope
from mlx_align.batch import Batch
from mlx_align.config import OptimConfig
from mlx_align.data import Example, collate
from mlx_align.errors import UsageError
from mlx_align.scored import scored_places
from tests import support
from tests.unit.backends.mlx_models import (
    AFM7,
    ATTENTION,
    GEMMA2,
    GEMMA3N,
    MAMBA,
    SHARED,
    WINDOW,
    build,
    with_lora,
)


def policy_of(
    model: nn.Module, optim: OptimConfig | None, checkpointing: Checkpointing = "none"
) -> MlxPolicy:
    def memory() -> MemoryUse:
        return MemoryUse(0, 0, 0)

    return MlxPolicy(model, {}, optim, memory, compiled=False, checkpointing=checkpointing)


def examples() -> list[Example]:
    rng = np.random.default_rng(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.integers(1, 255, n).tolist())

    lengths = ((17, 12, 20), (9, 25, 5), (30, 8, 14), (1, 3, 2), (2, 1, 7))
    return [
        Example(f"d:{i}", ids(p), (ids(c), ids(r)), "", "", ("", "")) for i, (p, c, r) in enumerate(lengths)
    ]


def weights(batch: Any) -> mx.array:
    return mx.array(np.random.default_rng(2).normal(size=batch.branch_ids.shape).astype(np.float32))


def weights_of_prompts(batch: Any) -> mx.array:
    return mx.array(np.random.default_rng(3).normal(size=batch.prompt_ids.shape).astype(np.float32))


def alone(
    model: nn.Module,
    rows: list[Example],
    weight: mx.array,
    *,
    cached: bool = False,
    of_prompts: mx.array | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Each branch as a sequence of its own, unpadded, by the bare model, as it is or as it generates.

    With weights for the prompts' tokens they are scored too: those before a row's first branch.
    """

    def total(model: nn.Module) -> tuple[mx.array, list[mx.array]]:
        found, prompts = [], []
        for example in rows:
            for which, branch in enumerate(example.branch_ids):
                ids = mx.array([[*example.prompt_ids, *branch]])
                logits = model(ids[:, :-1], cache=make_prompt_cache(model) if cached else None)
                losses = nn.losses.cross_entropy(logits, ids[:, 1:], reduction="none")
                found.append(-losses[0, len(example.prompt_ids) - 1 :])
                if of_prompts is not None and which == 0:
                    prompts.append(-losses[0, : len(example.prompt_ids) - 1])
        parts = [(logps * weight[n, : logps.size]).sum() for n, logps in enumerate(found)]
        parts += [(logps * of_prompts[n, 1 : logps.size + 1]).sum() for n, logps in enumerate(prompts)]
        return sum(parts), found + prompts

    model.eval()
    if not tree_flatten(model.trainable_parameters()):
        return np.concatenate([np.array(logps) for logps in total(model)[1]]), {}
    (_, found), gradient = nn.value_and_grad(model, total)(model)
    flat = {name: np.array(value) for name, value in tree_flatten(gradient)}
    return np.concatenate([np.array(logps) for logps in found]), flat


def read(
    model: nn.Module,
    forward: Forward,
    rows: list[Example] | Batch,
    weight: mx.array,
    *,
    opened: Any = None,
    of_prompts: mx.array | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    batch = rows if isinstance(rows, Batch) else collate(rows, scores_prompt=of_prompts is not None)
    inputs, arrays = forward.inputs(batch), to_arrays(batch)
    flat = [weight.reshape(-1)] if of_prompts is None else [weight.reshape(-1), of_prompts.reshape(-1)]

    def total(model: nn.Module) -> tuple[mx.array, mx.array]:
        grid = forward.logps(inputs, to_batch(arrays), grad=True)
        return (grid * mx.concatenate(flat)).sum(), grid

    with opened() if opened else nullcontext():
        (_, grid), gradient = nn.value_and_grad(model, total)(model)
        mx.eval(grid, gradient)
    marked = scored_places(batch.branch_mask, batch.prompt_mask)
    return np.array(grid)[marked], {n: np.array(v) for n, v in tree_flatten(gradient)}


def assert_same(
    got: tuple[np.ndarray, dict[str, np.ndarray]], want: tuple[np.ndarray, dict[str, np.ndarray]]
) -> None:
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=2e-5)
    assert got[1].keys() == want[1].keys()
    for name, value in want[1].items():
        assert np.abs(got[1][name] - value).max() <= 2e-5 * np.abs(value).max() + 1e-7, name


@pytest.mark.parametrize("name", SHARED)
def test_shared_prompts_equal_single_sequences(name: str) -> None:
    kind, facts = SHARED[name]
    model = with_lora(build(kind, **facts))
    reading = choose(model)
    assert reading.notes == ()
    assert reading.forward.shared
    rows = examples()
    weight = weights(collate(rows))
    want = alone(model, rows, weight)
    assert_same(read(model, reading.forward, rows, weight), want)
    whole = Forward(reading.forward.model, shared=False, vocabulary=256)
    assert_same(read(model, whole, rows, weight), want)


@pytest.mark.parametrize("what", ["none", "layers", "attention"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "gemma4_text"])
def test_scored_prompts_are_those_of_single_sequences(
    name: str, shared: bool, ragged: bool, what: Any
) -> None:
    kind, facts = SHARED[name]
    model = with_lora(build(kind, **facts))
    rows = examples()
    batch = collate(rows, scores_prompt=True)
    weight, of_prompts = weights(batch), weights_of_prompts(batch)
    want = alone(model, rows, weight, of_prompts=of_prompts)
    forward = replace(choose(model).forward, shared=shared, ragged=ragged)
    assert ("prefixes" in forward.inputs(batch)) == shared
    opened = scope(model, checkpointed(model, what))
    model.train()
    assert_same(read(model, forward, rows, weight, opened=opened, of_prompts=of_prompts), want)


@pytest.mark.parametrize("what", ["layers", "attention"])
@pytest.mark.parametrize(
    "name", ["llama with windows", "qwen3", "gemma3_text", "qwen3_moe", "gemma4_text", "hunyuan"]
)
def test_checkpointing_changes_no_gradient(name: str, what: Any) -> None:
    kind, facts = SHARED[name]
    model = with_lora(build(kind, **facts))
    rows = examples()
    weight = weights(collate(rows))
    want = alone(model, rows, weight)
    forward = choose(model).forward
    opened = scope(model, checkpointed(model, what))
    model.train()
    assert_same(read(model, forward, rows, weight, opened=opened), want)


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "gemma4_text", "gpt_oss"])
def test_the_cpus_own_functions_change_no_gradient(name: str) -> None:
    kind, facts = SHARED[name]
    model = with_lora(build(kind, **facts))
    rows = examples()
    weight = weights(collate(rows))
    want = alone(model, rows, weight)
    opened = scope(model, cpu.substitutes(Stages(wanted=False)))
    assert_same(read(model, choose(model).forward, rows, weight, opened=opened), want)


@pytest.mark.parametrize("what", ["none", "layers", "attention"])
def test_a_model_that_is_another_with_a_cache_is_trained_as_it_generates(what: Any) -> None:
    model = with_lora(build("gemma3n", **GEMMA3N), keys=ATTENTION)
    reading = choose(model)
    rows = examples()
    weight = weights(collate(rows))
    want = alone(model, rows, weight, cached=True)
    assert np.abs(want[0] - alone(model, rows, weight)[0]).max() > 0.1
    opened = scope(model, checkpointed(model, what))
    model.train()
    assert_same(read(model, reading.forward, rows, weight, opened=opened), want)


def test_a_model_that_cannot_be_trained_as_it_generates_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Recorder, "keys_and_values")
    with pytest.raises(UsageError, match="would not be trained as it generates"):
        policy_of(with_lora(build("gemma3n", **GEMMA3N), keys=ATTENTION), OptimConfig())


def test_a_model_that_bears_no_adapter_on_some_layer_is_refused_with_a_way_out() -> None:
    model = with_lora(build("gemma3n", **GEMMA3N))
    with pytest.raises(UsageError, match="AttributeError") as caught:
        choose(model)
    assert "adapter.modules=attention" in (caught.value.hint or "")


def test_prompts_of_such_a_model_are_decoded_side_by_side() -> None:
    assert trouble_together(build("gemma3n", **GEMMA3N)) is None


def test_weights_that_a_model_rewrites_while_it_is_read_are_put_back() -> None:
    """A graph of another thread's stream would be read from them otherwise, which ends the process."""
    model = build("gemma3n", **GEMMA3N)
    model.eval()
    opened = scope(model)
    before = dict(tree_flatten(model.parameters()))
    with opened():
        model(mx.array([[1, 2]]))
        assert any(value is not before[name] for name, value in tree_flatten(model.parameters()))
    assert all(value is before[name] for name, value in tree_flatten(model.parameters()))


def test_a_layer_whose_cache_a_checkpoint_cannot_see_is_refused() -> None:
    model = build("afm7", **AFM7)
    checkpointed(model, "layers")
    ids = mx.array([[1, 2, 3]])
    model.eval()
    model(ids)
    model.train()
    with pytest.raises(UsageError, match="hand on a ConcatenateKVCache"):
        model(ids)


def test_it_is_refused_before_anything_else_is_done() -> None:
    with pytest.raises(UsageError, match="hand on a ConcatenateKVCache"):
        policy_of(with_lora(build("afm7", **AFM7), keys=ATTENTION), OptimConfig(), "layers")


def test_a_model_that_does_not_call_its_layers_is_refused() -> None:
    """A checkpoint would never be entered, and nobody would know why memory is not less."""
    loop = {"loop_window_size": WINDOW}
    with pytest.raises(UsageError, match="does not call its layers") as caught:
        policy_of(with_lora(build("iquestloopcoder", **loop)), OptimConfig(), "layers")
    assert caught.value.where == "backend.checkpointing"
    policy_of(with_lora(build("iquestloopcoder", **loop)), OptimConfig(), "attention")


def test_a_model_that_is_only_to_generate_is_not_refused_for_reasons_of_training() -> None:
    judge = policy_of(build("afm7", **AFM7), None, "layers")
    ((one,),) = judge.generate([[5, 9, 2]], sampling=Sampling(max_tokens=3), stop_ids=[])
    assert len(one.token_ids) == 3


def test_what_is_another_network_without_a_cache_may_generate_but_not_be_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(Recorder, "keys_and_values")
    judge = policy_of(build("gemma3n", **GEMMA3N), None)
    ((one,),) = judge.generate([[5, 9, 2]], sampling=Sampling(max_tokens=3), stop_ids=[])
    assert len(one.token_ids) == 3
    batch = collate(examples())
    for score in (
        lambda: judge.logps(batch),
        lambda: judge.evaluate(batch, support.objective("orpo")),
        lambda: judge.next_logps([[5, 9, 2]]),
    ):
        with pytest.raises(UsageError, match="would not be scored as it generates"):
            score()


def test_dropout_is_drawn_once_for_both_computations() -> None:
    """The gradient with checkpoints and dropout is that without checkpoints under the same keys."""
    model = with_lora(build("qwen3"), dropout=0.3)
    layers = prepare(model)
    assert layers
    rows = examples()
    weight = weights(collate(rows))
    forward = choose(model).forward
    model.train()
    set_keys(layers, mx.random.key(5))
    want = read(model, forward, rows, weight)
    opened = scope(model, checkpointed(model, "layers"))
    assert_same(read(model, forward, rows, weight, opened=opened), want)
    set_keys(layers, mx.random.key(6))
    other = read(model, forward, rows, weight, opened=opened)
    assert np.abs(other[0] - want[0]).max() > 1e-3


@pytest.mark.parametrize(("kind", "facts"), [("gemma2", GEMMA2), ("mamba", MAMBA)])
def test_an_architecture_that_cannot_share_is_read_whole_and_says_so(
    kind: str, facts: dict[str, Any]
) -> None:
    model = with_lora(build(kind, **facts))
    reading = choose(model)
    assert not reading.forward.shared
    assert "Prompts are read once for every answer" in reading.notes[-1]
    rows = examples()
    weight = weights(collate(rows))
    assert_same(read(model, reading.forward, rows, weight), alone(model, rows, weight))


@pytest.mark.parametrize("bits", [4, 8])
def test_shared_prompts_of_a_quantised_base_equal_single_sequences(bits: int) -> None:
    kind, facts = SHARED["qwen3"]
    model = build(kind, **facts)
    nn.quantize(model, group_size=32, bits=bits)
    reading = choose(with_lora(model))
    assert reading.forward.shared
    rows = examples()
    weight = weights(collate(rows))
    assert_same(read(model, reading.forward, rows, weight), alone(model, rows, weight))


def test_a_mask_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_align.backends.mlx.prefix import Prefix

    correct = Prefix.make_mask

    def leaky(
        self: Prefix, length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        mask = correct(self, length, return_array, window_size)
        return mask.at[..., : self.keys.shape[2]].maximum(mx.array(True))  # the prompts' padding is seen

    assert choose(build("llama")).forward.shared
    monkeypatch.setattr(Prefix, "make_mask", leaky)
    reading = choose(build("llama"))
    assert not reading.forward.shared
    assert "differ" in reading.notes[0]


def test_a_half_precision_model_is_shared_too() -> None:
    model = build("qwen3")
    model.set_dtype(mx.bfloat16)
    assert choose(model).notes == ()


def test_lora_factors_are_cast_to_the_models_precision() -> None:
    model = with_lora(build("qwen3"))
    model.set_dtype(mx.bfloat16)
    model.update(tree_map(lambda x: x.astype(mx.float32), model.trainable_parameters()))
    layer = model.layers[0].self_attn.q_proj
    x = mx.random.normal((4, 64)).astype(mx.bfloat16)
    before = layer(x).astype(mx.float32)
    prepare(model)
    after = layer(x)
    assert after.dtype == mx.bfloat16
    assert mx.abs(after.astype(mx.float32) - before).max().item() < 0.05 * mx.abs(before).max().item()
    gradient = nn.value_and_grad(layer, lambda layer: layer(x).astype(mx.float32).sum())(layer)[1]
    assert {value.dtype for _, value in tree_flatten(gradient)} == {mx.float32}
