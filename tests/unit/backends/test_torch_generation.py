"""Rollouts on torch: the tokens that the MLX backend samples, by transformers' own processors and caches."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PhimoeConfig

from mlx_align import backends, embedded
from mlx_align.backends.base import Generation, Policy, Sampling
from mlx_align.backends.completions import Asked, groups_of
from mlx_align.backends.torch import generation, longrope
from mlx_align.config import BackendConfig
from tests import support
from tests.sampling_oracle import assert_drawn_from, distribution

STOPS = [1023]
OPTIONS: list[dict[str, float]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 3.0, "top_p": 0.8},
    {"temperature": 2.0, "top_k": 6},
    {"temperature": 2.0, "min_p": 0.05},
    {"repetition_penalty": 1.5},
    {"temperature": 1.5, "top_p": 0.95, "top_k": 30, "min_p": 0.01, "repetition_penalty": 1.2},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def bare(name: str = "torch", folder: Path | None = None) -> Policy:
    backend = backends.create(BackendConfig(name=name, device="cpu"))
    return backend.load_for_generation(folder or embedded.model_folder(), None)


def questions(count: int = 4) -> list[tuple[int, ...]]:
    return [example.prompt_ids for example in support.examples()[:count]]


def say(policy: Policy | None = None, **options: Any) -> list[list[Generation]]:
    how: dict[str, Any] = {"sampling": Sampling(max_tokens=40), "stop_ids": STOPS, **options}
    return (policy or bare()).generate(questions(), **how)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_both_backends_sample_the_same_tokens(options: dict[str, float]) -> None:
    how: dict[str, Any] = {"sampling": Sampling(max_tokens=30, **options), "samples": 3, "seed": 4}
    torchs, mlxs = say(**how), say(bare("mlx"), **how)
    assert torchs == mlxs
    assert any(len(set(group)) > 1 for group in torchs) == ("temperature" in options)


def test_a_group_is_drawn_from_the_models_distribution() -> None:
    how = Sampling(max_tokens=1, temperature=6.0, top_k=50, repetition_penalty=1.3)
    prompt = questions()[0]
    (group,) = bare().generate([prompt], sampling=how, stop_ids=[], samples=1000)
    model: Any = bare()._model
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].numpy().astype(np.float64)
    assert_drawn_from(distribution(logits, how, prompt), [one.token_ids[0] for one in group])


def test_torchs_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    say(sampling=Sampling(max_tokens=5, temperature=1.0), samples=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = bare()._model
    shapes: list[tuple[int, ...]] = []
    plain = model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        shapes.append(tuple(kwargs["input_ids"].shape))
        return plain(*args, **kwargs)

    monkeypatch.setattr(model, "forward", spy)
    say(sampling=Sampling(max_tokens=3), stop_ids=[], samples=2)
    width = max(map(len, questions()))
    assert shapes == [(4, width - 1), *[(8, 1)] * 3]


def test_padding_adds_no_token_to_a_prompt() -> None:
    """Or the repetition penalty would count a token that nobody wrote."""
    groups = groups_of(Asked(questions(), Sampling(max_tokens=1), [], 1, None, 0))
    ids, mask = generation._left_padded(groups, torch.device("cpu"))
    assert mask.sum(dim=-1).tolist() == list(map(len, questions()))
    assert [set(row) for row in ids.tolist()] == list(map(set, questions()))


def test_more_sequences_than_fit_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    how: dict[str, Any] = {"sampling": Sampling(max_tokens=12, temperature=1.5), "samples": 3}
    wanted = say(**how)
    monkeypatch.setattr(generation, "SIDE_BY_SIDE", 2)
    assert say(**how) == wanted


def test_how_a_completion_ends() -> None:
    whole = [one for (one,) in say()]
    assert all(one.finished and one.text_ids == one.token_ids[:-1] for one in whole)
    assert len({len(one.token_ids) for one in whole}) > 1

    def ended(ids: Sequence[int]) -> bool:
        return len(ids) == 4

    cut = [one for (one,) in say(ended=ended)]
    assert cut == [Generation(one.token_ids[:4], finished=True, by_text=True) for one in whole]
    short = [one for (one,) in say(sampling=Sampling(max_tokens=4))]
    assert short == [Generation(one.token_ids[:4], finished=False) for one in whole]
    assert {len(one.token_ids) for (one,) in say(stop_ids=[])} == {40}


def test_an_answer_is_read_with_its_own_list_of_positions(tmp_path: Path) -> None:
    """That which it could come to need (LongRoPE), whatever is decoded beside it."""
    folder = tmp_path / "model"
    shutil.copytree(embedded.model_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    size, prompts = config["head_dim"] // 2, sorted(questions(6), key=len)
    border = len(prompts[2]) + 8
    assert len(prompts[3]) + 8 > border, "on both sides of it"
    table = {"type": "longrope", "short_factor": [1.0] * size, "long_factor": [4.0] * size}
    scaling = {"rope_scaling": {**table, "original_max_position_embeddings": border}}
    (folder / "config.json").write_text(json.dumps({**config, **scaling}))
    how: dict[str, Any] = {"sampling": Sampling(max_tokens=8), "stop_ids": []}
    policy: Any = bare(folder=folder)
    together = policy.generate(prompts, **how)
    assert together == [policy.generate([prompt], **how)[0] for prompt in prompts]
    assert together == bare("mlx", folder).generate(prompts, **how)
    for long in (False, True):
        with longrope.chosen(policy._model, long=long):
            otherwise = policy.generate(prompts, **how)
        assert otherwise != together, "the lists make no difference"
    assert policy.generate(prompts, **how) == together, "and it goes by the length again"


@pytest.mark.parametrize(("loud", "border"), [(1.25, math.inf), (1.5, 100)])
def test_phi_moes_factors_are_not_chosen(loud: float, border: float) -> None:
    """transformers has those for short texts at any length, and chooses how loud they are."""
    config = PhimoeConfig(
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 100,
            "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "short_mscale": 1.25, "long_mscale": loud,
        },
        hidden_size=32, num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    model = SimpleNamespace(config=config)
    assert longrope.border(model) == border
    assert (longrope.settle(model, 200) is None) == (border == math.inf)


def test_the_folders_generation_settings_are_not_used(tmp_path: Path) -> None:
    folder = shutil.copytree(embedded.model_folder(), tmp_path / "model")
    tempting = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 9.0, "max_new_tokens": 3}
    settings = {**tempting, "eos_token_id": say()[0][0].token_ids[1], "num_beams": 2}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert say(bare(folder=folder)) == say()
