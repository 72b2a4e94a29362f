"""What must hold of every plan and every batch, whatever the rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_align.batch import Batch
from mlx_align.config import TrainConfig
from mlx_align.data import BatchPlan, Example, Shape, Sizes, collate

LENGTHS = st.lists(st.integers(2, 500), min_size=1, max_size=80)
SIZES = st.integers(1, 9)
SEEDS = st.integers(0, 2**31 - 1)
TOKENS = st.lists(st.integers(1, 999), min_size=1, max_size=40).map(tuple)


@st.composite
def example_lists(draw: st.DrawFn) -> list[Example]:
    k = draw(st.integers(1, 3))
    prompts = draw(st.lists(TOKENS, min_size=1, max_size=5))
    branches = [tuple(draw(TOKENS) for _ in range(k)) for _ in prompts]
    return [
        Example(f"d.jsonl:{i}", prompt, of_row, "", "", ("",) * k)
        for i, (prompt, of_row) in enumerate(zip(prompts, branches, strict=True))
    ]


def sizes_of(lengths: list[int]) -> Sizes:
    """Rows of these lengths, half of them prompt."""
    whole = np.array(lengths)
    return Sizes(whole - whole // 2, whole // 2, whole // 2, branches=1)


def plan_of(lengths: list[int], size: int, seed: int, epochs: float = 6.0) -> BatchPlan:
    return BatchPlan(sizes_of(lengths), TrainConfig(batch_size=size, seed=seed, epochs=epochs))


@given(LENGTHS, SIZES, SEEDS, st.integers(0, 5))
def test_every_epoch_has_every_row_once(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    plan = plan_of(lengths, size, seed)
    assert plan.per_epoch == math.ceil(len(lengths) / size)
    batches = [plan.indices(epoch * plan.per_epoch + i) for i in range(plan.per_epoch)]
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert sorted(map(len, batches), reverse=True)[:-1] == [size] * (plan.per_epoch - 1)


def test_epochs_and_seeds_differ() -> None:
    def epoch(seed: int, number: int) -> list[tuple[int, ...]]:
        plan = plan_of([10] * 64, 4, seed)
        return [plan.indices(number * plan.per_epoch + i) for i in range(plan.per_epoch)]

    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)


def test_rows_of_similar_length_share_a_batch_and_batches_are_not_in_order_of_length() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(2, 1000, size=640)]
    plan = plan_of(lengths, 8, seed=0)
    batches = [[lengths[row] for row in plan.indices(i)] for i in range(plan.per_epoch)]
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches) / sum(lengths)
    assert padding < 0.1  # about 0.8 without sorting
    first = [batch[0] for batch in batches[:16]]
    assert first != sorted(first)


def unpad(ids: np.ndarray, mask: np.ndarray) -> list[tuple[int, ...]]:
    """The real tokens of each row; they must stand at its left."""
    lengths = mask.sum(axis=1).astype(int)
    assert (mask == (np.arange(mask.shape[1]) < lengths[:, None])).all()
    assert (ids[mask == 0] == 0).all()
    return [tuple(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]


def prompts_of(batch: Batch) -> list[tuple[int, ...]]:
    positions = np.arange(batch.prompt_ids.shape[1])
    return unpad(batch.prompt_ids, (positions < batch.prompt_lens[:, None]).astype(np.float32))


@given(example_lists(), st.sampled_from([1, 8, 16]))
def test_unpadding_a_batch_gives_the_examples_back(examples: list[Example], pad_to: int) -> None:
    batch = collate(examples, pad_to=pad_to)
    k = len(examples[0].branch_ids)
    assert prompts_of(batch) == [example.prompt_ids for example in examples]
    assert unpad(batch.branch_ids, batch.branch_mask) == [b for e in examples for b in e.branch_ids]
    assert (batch.branch_mask == batch.response_mask).all()
    assert batch.branch_row.tolist() == [row for row in range(len(examples)) for _ in range(k)]
    assert (batch.size, batch.branches) == (len(examples), k)
    assert batch.rows == tuple(example.name for example in examples)
    assert batch.branch_ids.shape[1] % pad_to == 0
    width = batch.prompt_ids.shape[1]
    assert width % pad_to == 0 or width == max(len(example.prompt_ids) for example in examples) == 1
    assert batch.ref_logps is None
    ids = (batch.prompt_ids, batch.prompt_lens, batch.branch_ids, batch.branch_row, batch.scored)
    assert {array.dtype for array in ids} == {np.dtype(np.int32)}
    assert {batch.branch_mask.dtype, batch.response_mask.dtype} == {np.dtype(np.float32)}


@given(example_lists(), st.booleans(), st.tuples(*[st.integers(0, 50)] * 3))
def test_the_scored_positions_are_the_marked_ones_and_then_others(
    examples: list[Example], scores_prompt: bool, more: tuple[int, int, int]
) -> None:
    small = collate(examples, scores_prompt=scores_prompt)
    n, t = small.branch_ids.shape
    shape = Shape(small.size, small.prompt_ids.shape[1] + more[0], t + more[1], len(small.scored) + more[2])
    shape = replace(shape, scored=min(shape.scored, n * shape.branch))
    for batch, width, count in ((small, t, len(small.scored)), (collate(
        examples, scores_prompt=scores_prompt, shape=shape), shape.branch, shape.scored)):  # fmt: skip
        assert batch.branch_ids.shape == (n, width)
        assert batch.scored.shape == (count,)
        marked = np.flatnonzero(batch.branch_mask)
        assert batch.scored[: len(marked)].tolist() == marked.tolist()
        assert len(set(batch.scored.tolist())) == count <= n * width
        assert set(batch.scored.tolist()) <= set(range(n * width))
        leads = [len(example.prompt_ids) - 1 for example in examples] if scores_prompt else []
        again = sum(leads) * (batch.branches - 1)
        assert batch.padded() == batch.size * batch.prompt_ids.shape[1] + n * width - again
        assert batch.padded() >= batch.tokens()


def test_a_shape_that_is_too_small_is_refused() -> None:
    example = Example("d.jsonl:1", (1, 2), ((3,) * 20,), "", "", ("a",))
    shape = Shape(1, 16, 32, 32)
    assert collate([example], shape=shape).branch_ids.shape == (1, 32)
    small = [
        replace(shape, rows=2),
        replace(shape, prompt=1),
        replace(shape, branch=16),
        replace(shape, scored=16),
    ]
    for other in small:
        with pytest.raises(ValueError, match="cannot be padded"):
            collate([example], shape=other)


@given(example_lists())
def test_scoring_the_prompt_moves_it_into_the_branches(examples: list[Example]) -> None:
    batch = collate(examples, scores_prompt=True)
    assert batch.prompt_ids.tolist() == [[example.prompt_ids[0]] for example in examples]
    assert batch.prompt_lens.tolist() == [1] * len(examples)
    whole = [e.prompt_ids[1:] + branch for e in examples for branch in e.branch_ids]
    for ids, tokens in zip(batch.branch_ids, whole, strict=True):
        assert tuple(ids[: len(tokens)].tolist()) == tokens
        assert not ids[len(tokens) :].any()
    responses = [branch for e in examples for branch in e.branch_ids]
    for ids, mask, response in zip(batch.branch_ids, batch.response_mask, responses, strict=True):
        assert tuple(ids[mask == 1].tolist()) == response
    mask, response = batch.branch_mask, batch.response_mask
    for which in range(batch.branches):
        prompt = batch.branch(mask - response, which).sum(axis=1)
        assert prompt.tolist() == [len(e.prompt_ids) - 1 if which == 0 else 0 for e in examples]
    assert (response <= mask).all()
    assert batch.tokens() == sum(len(e.prompt_ids) + sum(map(len, e.branch_ids)) for e in examples)


@given(example_lists(), st.booleans())
def test_reference_logps_stand_where_their_tokens_stand(examples: list[Example], scores_prompt: bool) -> None:
    leads = [len(e.prompt_ids) - 1 if scores_prompt else 0 for e in examples]
    logps = [
        [-np.arange(1, lead + len(branch) + 1, dtype=np.float32) for branch in e.branch_ids]
        for e, lead in zip(examples, leads, strict=True)
    ]
    batch = collate(examples, scores_prompt=scores_prompt, ref_logps=logps)
    assert batch.ref_logps is not None
    assert batch.ref_logps.dtype == np.float32
    expected = -(np.arange(batch.branch_ids.shape[1]) + 1) * batch.branch_mask
    assert (batch.ref_logps * batch.branch_mask == expected).all()
    assert ((batch.ref_logps != 0).sum(axis=1) == [len(array) for of_row in logps for array in of_row]).all()


def test_reference_logps_of_another_length_are_refused() -> None:
    example = Example("d.jsonl:1", (1, 2), ((3, 4),), "", "", ("a",))
    with pytest.raises(ValueError, match="do not fit"):
        collate([example], ref_logps=[[np.zeros(1, dtype=np.float32)]])
