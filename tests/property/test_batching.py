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
from mlx_align.data.shapes import SCORED_STEP

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
    assert batch.prompt_ids.shape[1] % pad_to == 0
    assert batch.ref_logps is batch.prompt_mask is batch.prompt_logps is None
    ids = (batch.prompt_ids, batch.prompt_lens, batch.branch_ids, batch.branch_row, batch.scored)
    assert {array.dtype for array in ids} == {np.dtype(np.int32)}
    assert {batch.branch_mask.dtype, batch.response_mask.dtype} == {np.dtype(np.float32)}


@given(example_lists(), st.booleans(), st.tuples(*[st.integers(0, 50)] * 3))
def test_the_scored_places_are_the_marked_ones_and_then_others(
    examples: list[Example], scores_prompt: bool, more: tuple[int, int, int]
) -> None:
    small = collate(examples, scores_prompt=scores_prompt)
    n, t = small.branch_ids.shape
    shape = Shape(small.size, small.prompt_ids.shape[1] + more[0], t + more[1], len(small.scored) + more[2])
    places = n * shape.branch + scores_prompt * shape.rows * shape.prompt
    shape = replace(shape, scored=min(shape.scored, places))
    large = collate(examples, scores_prompt=scores_prompt, shape=shape)
    for batch, width, count in ((small, t, len(small.scored)), (large, shape.branch, shape.scored)):
        assert batch.branch_ids.shape == (n, width)
        assert batch.scored.shape == (count,)
        assert batch.padded() == batch.size * batch.prompt_ids.shape[1] + n * width >= batch.tokens()
        masks = [batch.branch_mask] if batch.prompt_mask is None else [batch.branch_mask, batch.prompt_mask]
        marks = np.concatenate([mask.reshape(-1) for mask in masks])
        marked = np.flatnonzero(marks)
        assert batch.scored[: len(marked)].tolist() == marked.tolist()
        assert len(set(batch.scored.tolist())) == count <= marks.size
        assert set(batch.scored.tolist()) <= set(range(marks.size))
    assert len(small.scored) == min(math.ceil(len(marked) / SCORED_STEP) * SCORED_STEP, places_of(small))


def places_of(batch: Batch) -> int:
    """Of the flat grid."""
    return int(batch.branch_mask.size + (0 if batch.prompt_mask is None else batch.prompt_mask.size))


@given(example_lists(), st.booleans())
def test_the_flat_grid_is_taken_apart_as_it_is_counted(examples: list[Example], scores_prompt: bool) -> None:
    batch = collate(examples, scores_prompt=scores_prompt)
    grid = np.arange(places_of(batch), dtype=np.float32)
    logps, told = batch.with_logps(grid)
    of_prompts = [] if told.prompt_logps is None else told.prompt_logps.reshape(-1).tolist()
    assert logps.reshape(-1).tolist() + of_prompts == grid.tolist()
    assert logps.shape == batch.branch_ids.shape
    if scores_prompt:
        assert told.prompt_logps is not None
        assert told.prompt_logps.shape == batch.prompt_ids.shape
    else:
        assert told is batch


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
def test_scoring_the_prompt_marks_all_of_it_but_what_nothing_predicts(examples: list[Example]) -> None:
    batch, plain = collate(examples, scores_prompt=True), collate(examples)
    assert prompts_of(batch) == [example.prompt_ids for example in examples]
    assert batch.prompt_mask is not None
    lens, place = batch.prompt_lens[:, None], np.arange(batch.prompt_ids.shape[1])
    assert (batch.prompt_mask == ((place > 0) & (place < lens))).all()
    assert batch.prompt_mask.dtype == np.float32
    for name in ("branch_ids", "branch_mask", "response_mask", "branch_row"):
        assert (getattr(batch, name) == getattr(plain, name)).all()
    assert batch.tokens() == plain.tokens()


@given(example_lists(), st.booleans())
def test_reference_logps_stand_where_their_tokens_stand(examples: list[Example], scores_prompt: bool) -> None:
    logps = [[-np.arange(1, len(ids) + 1, dtype=np.float32) for ids in e.branch_ids] for e in examples]
    batch = collate(examples, scores_prompt=scores_prompt, ref_logps=logps)
    assert batch.ref_logps is not None
    assert batch.ref_logps.dtype == np.float32
    expected = -(np.arange(batch.branch_ids.shape[1]) + 1) * batch.branch_mask
    assert (batch.ref_logps == expected).all()


def test_reference_logps_of_another_length_are_refused() -> None:
    example = Example("d.jsonl:1", (1, 2), ((3, 4),), "", "", ("a",))
    with pytest.raises(ValueError, match="do not fit"):
        collate([example], ref_logps=[[np.zeros(1, dtype=np.float32)]])
