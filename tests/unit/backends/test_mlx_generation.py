"""Rollouts on MLX: groups decoded together say what mlx-lm says for each sequence alone."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

import mlx_align.backends.mlx  # noqa: F401  (loads OpenBLAS before mlx)

import mlx.core as mx  # isort: skip
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from mlx_align import embedded
from mlx_align.backends.base import Generation, MemoryUse, Policy, Sampling
from mlx_align.backends.completions import Asked
from mlx_align.backends.mlx import generation
from mlx_align.backends.mlx.caches import trouble_together
from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.config import AdapterConfig
from tests import support
from tests.sampling_oracle import assert_drawn_from, distribution

COMMON = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
    "rope_theta": 1e4,
}
RECURRENT = {
    "state_size": 8,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 32,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    # a window shorter than prompts and completions
    "gemma3_text": {"query_pre_attn_scalar": 16, "sliding_window": 16, "sliding_window_pattern": 3},
    "mamba2": {
        **RECURRENT,
        "num_heads": 4,
        "head_dim": 32,
        "n_groups": 1,
        "chunk_size": 16,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "time_step_limit": (0.0, 100.0),
    },
    "gemma2": {"query_pre_attn_scalar": 16},
    "mamba": RECURRENT,
}
STOP = 7


@pytest.fixture(autouse=True)
def _on_the_cpu() -> None:
    mx.set_default_device(mx.cpu)


@cache
def model_of(name: str, *, quantised: bool = False) -> nn.Module:
    """A random model whose weights are large enough that its answers differ."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    mx.random.seed(3)
    model = module.Model(module.ModelArgs.from_dict({"model_type": name, **COMMON, **MODELS[name]}))
    model.update(tree_map(lambda value: value * 3 if value.ndim == 2 else value, model.parameters()))
    if quantised:
        nn.quantize(model, group_size=32, bits=4)
    model.eval()
    return model


@cache
def embedded_model() -> nn.Module:
    return load_model(embedded.model_folder())[0]


def prompts(sizes: Sequence[int] = (9, 1, 23, 5, 30)) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 200, size).tolist() for size in sizes]


def questions(count: int = 5) -> list[tuple[int, ...]]:
    return [example.prompt_ids for example in support.examples()[:count]]


def decode(
    model: nn.Module,
    asked: Sequence[Sequence[int]],
    samples: int = 1,
    stop_ids: Sequence[int] = (STOP,),
    *,
    together: bool = True,
    seed: int = 0,
    **sampling: Any,
) -> list[list[Generation]]:
    how = Sampling(**{"max_tokens": 20, **sampling})
    return generation.generate(model, Asked(asked, how, stop_ids, samples, None, seed), together=together)


def by_mlx_lm(model: nn.Module, prompt: Sequence[int], count: int, stop_ids: Sequence[int]) -> Generation:
    """One sequence alone, greedily, by mlx-lm's own loop."""
    ids: list[int] = []
    for token, _ in generate_step(mx.array(prompt), model, max_tokens=count):
        ids.append(token)
        if token in stop_ids:
            break
    return Generation(tuple(ids), finished=ids[-1] in stop_ids)


# Greedy decoding is mlx-lm's


@pytest.mark.parametrize("samples", [1, 3])
def test_greedy_groups_of_the_embedded_model(samples: int) -> None:
    stops = sorted(support.tokenizer().stop_ids)
    wanted = [by_mlx_lm(embedded_model(), prompt, 40, stops) for prompt in questions()]
    got = decode(embedded_model(), questions(), samples, stops, max_tokens=40)
    assert got == [[one] * samples for one in wanted]
    assert all(one.finished for one in wanted)
    assert len({len(one.token_ids) for one in wanted}) > 1


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_groups_of_every_kind_of_cache(name: str, quantised: bool) -> None:
    model = model_of(name, quantised=quantised)
    trouble = trouble_together(model)
    assert (trouble is not None) == (name == "gemma2"), "mlx-lm's gemma2 cannot mask padding"
    wanted = [[by_mlx_lm(model, prompt, 20, [STOP])] * 2 for prompt in prompts()]
    assert decode(model, prompts(), 2, together=trouble is None) == wanted


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_is_heard(kind: str) -> None:
    with_adapter = support.policy(AdapterConfig(type=kind, rank=4), spread=0.3)
    bare = support.policy(AdapterConfig(type=kind, rank=4), spread=0.0)
    how: dict[str, Any] = {"sampling": Sampling(max_tokens=12), "stop_ids": [1023], "samples": 2}
    assert with_adapter.generate(questions(), **how) != bare.generate(questions(), **how)
    alone = [with_adapter.generate([question], **how)[0] for question in questions()]
    assert with_adapter.generate(questions(), **how) == alone


@pytest.mark.parametrize("sizes", [(9, 1, 23, 5, 30), (22, 3), (2, 1), (1, 1), (9, 9)])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba2"])
def test_long_prompts_are_read_in_parts(
    name: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of one and two tokens among them, and some of equal length."""
    monkeypatch.setattr("mlx_align.backends.mlx.caches.TOKENS_AT_A_TIME", 10)
    wanted = [[by_mlx_lm(model_of(name), prompt, 8, [STOP])] for prompt in prompts(sizes)]
    assert decode(model_of(name), prompts(sizes), max_tokens=8) == wanted


# Sampling


def test_a_group_is_drawn_from_the_models_distribution() -> None:
    """The first two tokens of 3,000 completions, with every option on."""
    how = Sampling(max_tokens=2, temperature=2.0, top_k=40, top_p=0.95, min_p=0.001, repetition_penalty=1.2)
    model, prompt = model_of("llama"), prompts()[0]
    (group,) = generation.generate(model, Asked([prompt], how, [], 3000, None, 0), together=True)

    def expected(ids: list[int]) -> Any:
        return distribution(np.array(model(mx.array([ids]))[0, -1], np.float64), how, ids)

    first = [one.token_ids[0] for one in group]
    assert_drawn_from(expected(prompt), first)
    (likeliest, count), *_ = Counter(first).most_common()
    assert count > 100
    second = [one.token_ids[1] for one in group if one.token_ids[0] == likeliest]
    assert_drawn_from(expected([*prompt, likeliest]), second)


def test_draws_depend_on_seed_prompt_and_sample_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the width, on when finished sequences leave, on the other samples, nor on MLX's random state."""
    stops = sorted(support.tokenizer().stop_ids)

    def sampled(samples: int = 6, seed: int = 0, together: bool = True) -> list[list[Generation]]:
        mx.random.seed(np.random.default_rng().integers(1 << 30))
        return decode(
            embedded_model(), questions(), samples, stops, seed=seed, temperature=1.5, together=together
        )

    wanted = sampled()
    assert all(len(set(group)) > 1 for group in wanted)
    assert sampled(seed=1) != wanted
    assert sampled(samples=2) == [group[:2] for group in wanted]
    assert sampled(together=False) == wanted
    for name, value in (("SHRINK", 0.0), ("SHRINK", 1.0), ("SIDE_BY_SIDE", 4)):
        monkeypatch.setattr(generation, name, value)
        assert sampled() == wanted, name


def test_mlxs_random_state_is_left_alone() -> None:
    mx.random.seed(5)
    before = [np.array(key) for key in mx.random.state]
    decode(model_of("llama"), prompts(), 2, temperature=1.0)
    np.testing.assert_array_equal(before, [np.array(key) for key in mx.random.state])


# How a completion ends


def ends(**options: Any) -> list[Generation]:
    """What a policy says to one question, greedily."""
    policy: Policy = support.policy(spread=0.0)
    how: dict[str, Any] = {"sampling": Sampling(max_tokens=40), "stop_ids": [1023], **options}
    return policy.generate(questions(1), **how)[0]


def test_a_stop_token_is_kept_and_is_not_text() -> None:
    (whole,) = ends()
    assert whole.finished
    assert whole.token_ids == (*whole.text_ids, 1023)


def test_a_stop_string_ends_a_completion_and_is_text() -> None:
    (whole,) = ends()
    asked: list[tuple[int, ...]] = []

    def ended(ids: Sequence[int]) -> bool:
        asked.append(tuple(ids))
        return len(ids) == 3

    (cut,) = ends(ended=ended)
    assert cut == Generation(whole.token_ids[:3], finished=True, by_text=True)
    assert cut.text_ids == cut.token_ids
    assert asked == [whole.token_ids[:count] for count in (1, 2, 3)]


def test_a_truncated_completion_is_known() -> None:
    (whole,) = ends()
    (cut,) = ends(sampling=Sampling(max_tokens=4))
    assert cut == Generation(whole.token_ids[:4], finished=False)
    assert cut.text_ids == cut.token_ids


# Work


class Spy(nn.Module):
    """Notes the shape of what a model is asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner, self.shapes = model, []

    @property
    def layers(self) -> Any:
        return self.inner.layers

    def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
        self.shapes.append(tuple(ids.shape))
        return self.inner(ids, cache=cache)


def test_a_prompt_is_read_once_and_its_group_decoded_together() -> None:
    spy = Spy(model_of("llama"))
    decode(spy, prompts((9, 9)), 8, stop_ids=(), temperature=1.0, max_tokens=5)
    assert spy.shapes == [(1, 8), (1, 8), *[(16, 1)] * 5]


def test_finished_sequences_leave_in_few_steps() -> None:
    spy = Spy(embedded_model())
    stops = sorted(support.tokenizer().stop_ids)
    (group,) = decode(spy, questions(1), 32, stops, temperature=1.5, max_tokens=60)
    tokens = sum(len(one.token_ids) for one in group)
    widths = [rows for rows, length in spy.shapes if length == 1]
    assert len({len(one.token_ids) for one in group}) > 5
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 8
    assert len(set(widths)) <= 12
    assert sum(widths) < 1.3 * tokens


def test_a_model_that_reads_one_prompt_at_a_time_says_so() -> None:
    memory = MemoryUse(active=0, peak=0, limit=1)
    options: dict[str, Any] = {"compiled": False, "checkpointing": "none"}
    notes = {
        name: MlxPolicy(model_of(name), {}, None, lambda: memory, **options).notes
        for name in ("gemma2", "mamba")
    }
    assert not any("one after the other" in note for note in notes["mamba"])
    assert any("one after the other" in note and "results differ" in note for note in notes["gemma2"])
