"""What the memory planner counts between updates: evaluating, sampling, judging."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlx_align.backends.mlx.habits import habits
from mlx_align.config import RunConfig
from mlx_align.data import Shape
from mlx_align.engine.planning.footprint import CAPPED
from mlx_align.engine.planning.planner import INSTRUCTIONS, _instructions, _own_judges, _whole
from tests import support
from tests.unit.engine.test_engine_planner import METAL, config, planner


def test_prompts_are_read_one_by_one_and_answered_side_by_side() -> None:
    arithmetic = planner()._arithmetic(config())
    one, many = (arithmetic.sampling(n, 1, 3000, 8) for n in (1, 32))
    assert one.work == many.work > 0
    assert many.keys == 32 * one.keys
    assert arithmetic.sampling(500, 1, 64, 64) == arithmetic.sampling(4, 8, 64, 64)
    longer = arithmetic.sampling(1, 1, 2048 + 1024, 8)  # in pieces, of which the first has the most scores
    assert arithmetic.sampling(1, 1, 2048, 8).work == longer.work


def test_evaluation_reads_prompts_too() -> None:
    arithmetic = planner()._arithmetic(config())
    shape = Shape(1, 2000, 8, 16)
    _, prompts = arithmetic._passes(shape)
    assert arithmetic.evaluation(shape).work == arithmetic._temporaries(prompts, arithmetic.habits.work_plain)


def test_caches_of_several_prompts_grow_from_their_end() -> None:
    arithmetic = planner()._arithmetic(config())
    one, two = (arithmetic._written(4, prompts, 480, 32).keys for prompts in (1, 2))
    model = arithmetic.model
    layer = (
        2 * 4 * 4 * model.key_heads * model.head_dim
    )  # four rows' keys and values of one token, in float32
    assert one == (model.layers + 1) * layer * 512
    assert two == (model.layers + 1) * layer * (480 + 256)
    gpu = replace(arithmetic, habits=habits("mlx:metal", 4, METAL))
    assert gpu._written(4, 1, 480, 32).keys == (model.layers + 2) * layer * 512


@pytest.mark.parametrize(("samples", "rows"), [(8, 32), (12, 24), (17, 17), (40, 32), (1, 32)])
def test_a_group_is_not_divided_to_fill_a_wave(samples: int, rows: int) -> None:
    arithmetic = planner()._arithmetic(config())
    at_once = max(1, rows // samples)
    assert arithmetic.sampling(50, samples, 4, 64).keys == arithmetic._written(rows, at_once, 4, 64).keys


def test_a_model_that_caps_its_scores_answers_one_prompt_at_a_time() -> None:
    """And it computes its scores itself, on a GPU too."""
    arithmetic = planner()._arithmetic(config())
    capped = replace(arithmetic, model=replace(arithmetic.model, capped_scores=True))
    assert capped.sampling(50, 8, 4, 64) == arithmetic.sampling(1, 8, 4, 64)
    gpu = replace(capped, habits=habits("mlx:metal", 4, METAL))
    plain = replace(gpu, model=arithmetic.model)
    own, _ = gpu._passes(Shape(1, 300, 300, 300))
    works = [one._temporaries(own, gpu.habits.work_plain) for one in (plain, gpu)]
    assert works[1] - works[0] == round(CAPPED * gpu._scores(own))


def test_dora_makes_weights_for_each_token_too() -> None:
    asked = (config(adapter__type=kind) for kind in ("lora", "dora"))
    plain, dora = (planner()._arithmetic(one)._written(32, 1, 64, 9).work for one in asked)
    assert plain == 0 < dora


def test_a_judge_that_is_the_base_reads_more_than_it_judges() -> None:
    judge = {"name": "judge", "rubric": "r" * 100, "max_tokens": "7.0"}
    other = {**judge, "model": "/another", "label": "other"}
    (own,) = _own_judges(RunConfig(rewards=[judge, other, {"name": "exact"}]))
    assert own.max_tokens == 7
    assert _instructions(own) == INSTRUCTIONS + 25
    whole = replace(support.examples()[0], prompt_ids=(1, 2), prompt_text="x" * 4000)
    assert _whole(whole) == 1000
