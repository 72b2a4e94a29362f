"""A run's batches under a cap of shapes and a budget of tokens: what any rows may rely on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlx_align.config import TrainConfig
from mlx_align.data import BatchPlan, Example, Shape, Sizes, collate, eval_batches
from mlx_align.data.merging import Items, merge
from mlx_align.data.shapes import LENGTH_STEP, PASS_SHAPES, SHAPES, TRAIN_SHAPES

PORTIONS = st.one_of(
    st.builds(dict, batch_size=st.integers(1, 9)),
    st.builds(dict, batch_size=st.none(), tokens_per_batch=st.integers(1, 5000)),
)
LENGTHS = st.one_of(
    st.builds(dict, epochs=st.floats(0.1, 4.0)),
    st.builds(dict, epochs=st.none(), steps=st.integers(1, 60), accumulate=st.integers(1, 3)),
)
CONFIGS = st.builds(
    lambda portion, length, seed: TrainConfig(**portion, **length, seed=seed),
    PORTIONS,
    LENGTHS,
    st.integers(0, 2**31 - 1),
)


@st.composite
def rows(draw: st.DrawFn) -> Sizes:
    """Up to 200 rows, as uneven as they come."""
    count, k = draw(st.integers(1, 200)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    prompts = np.exp(rng.normal(draw(st.floats(0, 6)), draw(st.floats(0, 1.5)), count)).astype(int) + 1
    branches = np.exp(rng.normal(draw(st.floats(0, 6)), draw(st.floats(0, 1.5)), (count, k))).astype(int) + 1
    return Sizes(prompts, branches.max(axis=1), branches.sum(axis=1), k)


def examples_of(sizes: Sizes) -> list[Example]:
    """Rows of one branch each."""
    both = zip(sizes.prompt.tolist(), sizes.branch.tolist(), strict=True)
    return [Example(f"d:{i}", (1,) * p, ((2,) * b,), "", "", ("",)) for i, (p, b) in enumerate(both)]


@given(rows(), CONFIGS)
@hypothesis_settings(deadline=None)
def test_a_run_has_few_shapes_and_each_holds_its_batch(sizes: Sizes, config: TrainConfig) -> None:
    plan = BatchPlan(sizes, config)
    shapes = [plan.shape(position) for position in range(plan.end)]
    assert len(set(shapes)) <= len(plan.shapes.all) <= TRAIN_SHAPES
    for position, shape in enumerate(shapes):
        batch = list(plan.indices(position))
        assert shape.rows == len(batch)
        assert shape.prompt >= sizes.prompt[batch].max()
        assert shape.branch >= sizes.branch[batch].max()
        assert sizes.scored[batch].sum() <= shape.scored <= shape.rows * sizes.branches * shape.branch


@given(rows(), CONFIGS)
@hypothesis_settings(deadline=None)
def test_no_batch_is_above_the_budget_but_single_rows_that_are_named(
    sizes: Sizes, config: TrainConfig
) -> None:
    plan = BatchPlan(sizes, config)
    budget = config.tokens_per_batch
    if budget is None:
        assert plan.oversized == ()
        return
    above = set()
    for position in range(plan.end):
        if plan.shape(position).tokens(sizes.branches) > budget:
            (row,) = plan.indices(position)
            above.add(row)
    assert above <= set(plan.oversized)
    alone = sizes.padded() @ [1, sizes.branches]
    assert set(np.flatnonzero(alone > budget)) <= set(plan.oversized)
    largest = -(-max(sizes.prompt) // LENGTH_STEP) - (-max(sizes.branch) // LENGTH_STEP) * sizes.branches
    if largest * LENGTH_STEP <= budget:
        assert plan.oversized == ()


@given(rows(), CONFIGS, st.integers(0, 4))
@hypothesis_settings(deadline=None)
def test_every_epoch_has_every_row_once(sizes: Sizes, config: TrainConfig, epoch: int) -> None:
    plan = BatchPlan(sizes, config.model_copy(update={"epochs": epoch + 1.0, "steps": None}))
    batches = [plan.indices(epoch * plan.per_epoch + i) for i in range(plan.per_epoch)]
    assert sorted(row for batch in batches for row in batch) == list(range(len(sizes)))
    assert plan.epoch(plan.end) == epoch + 1


@given(rows(), CONFIGS, st.integers(2, 4))
@hypothesis_settings(deadline=None)
def test_ranks_share_the_rows_and_each_keeps_the_budget(
    sizes: Sizes, config: TrainConfig, ranks: int
) -> None:
    config = config.model_copy(update={"epochs": 1.0, "steps": None})
    plans = [BatchPlan(sizes, config, rank, ranks) for rank in range(ranks)]
    assert len({plan.end for plan in plans}) == 1
    read: list[int] = []
    for position in range(plans[0].end):
        own = [plan.indices(position) for plan in plans]
        together = [row for rows in own for row in rows]
        assert all(sorted(plan.all_indices(position)) == sorted(together) for plan in plans)
        read += together
        for plan, rows in zip(plans, own, strict=True):
            if config.tokens_per_batch is None or not rows or rows[0] in plan.oversized:
                assert len(rows) <= (config.batch_size or 1)
            else:
                assert plan.shape(position).tokens(sizes.branches) <= config.tokens_per_batch
    assert sorted(read) == list(range(len(sizes)))


def test_rows_above_half_the_budget_keep_all_ranks_busy() -> None:
    """Two budgets put together would hold three of these rows, or one: never as many for either rank."""
    sizes = Sizes(*[np.full(12, n) for n in (500, 800, 800)], branches=1)
    for budget, named in ((2000, 0), (1200, 12)):
        config = TrainConfig(batch_size=None, tokens_per_batch=budget)
        plans = [BatchPlan(sizes, config, rank, 2) for rank in range(2)]
        assert [[len(plan.indices(p)) for p in range(plan.end)] for plan in plans] == [[1] * 6] * 2
        assert [len(plan.oversized) for plan in plans] == [named] * 2


@given(rows(), CONFIGS, st.lists(st.integers(0, 10**6), min_size=1, max_size=12))
@hypothesis_settings(deadline=None)
def test_a_position_means_the_same_batch_in_whatever_order_it_is_asked(
    sizes: Sizes, config: TrainConfig, anywhere: list[int]
) -> None:
    plan = BatchPlan(sizes, config)

    def at(plan: BatchPlan, position: int) -> tuple[tuple[int, ...], Shape]:
        return plan.indices(position), plan.shape(position)

    positions = [position % plan.end for position in anywhere]
    forward = [at(plan, position) for position in positions]
    backward = [at(plan, position) for position in reversed(positions)][::-1]
    fresh = [at(BatchPlan(sizes, config), position) for position in positions]
    assert forward == backward == fresh


@given(rows(), CONFIGS)
@hypothesis_settings(deadline=None)
def test_a_pass_reads_every_row_once_in_few_shapes(sizes: Sizes, config: TrainConfig) -> None:
    examples = examples_of(sizes)
    batches = eval_batches(examples, config)
    assert sorted(row for indices, _ in batches for row in indices) == list(range(len(examples)))
    assert len({shape for _, shape in batches}) <= PASS_SHAPES
    for indices, shape in batches:
        batch = collate([examples[i] for i in indices], shape=shape)
        assert (batch.size, *batch.branch_ids.shape) == (shape.rows, shape.rows, shape.branch)
        if config.tokens_per_batch is not None and shape.rows > 1:
            assert batch.padded() <= config.tokens_per_batch
    assert batches == eval_batches(examples, config)


def test_a_run_has_at_most_48_shapes() -> None:
    assert SHAPES == TRAIN_SHAPES + 2 * PASS_SHAPES == 48


def test_a_pass_over_nothing() -> None:
    assert eval_batches([], TrainConfig()) == []


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3)), min_size=1), st.data())
@hypothesis_settings(deadline=None)
def test_merging_keeps_to_its_limit_and_groups_and_forgets_nothing(
    things: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    made = np.array(things)
    sizes, groups = made[:, :2], made[:, 2]
    limit = data.draw(st.integers(len(set(groups)), 12))
    items = merge(Items.of(sizes, np.stack([groups, groups], axis=1), groups), limit)
    assert len(items.sizes) <= limit
    assert items.weights.sum() == len(things)
    for size, group in zip(sizes, groups, strict=True):
        assert any((items.sizes[items.groups == group] >= size).all(axis=1))


def test_the_cheapest_merge_comes_first_and_one_above_the_ceiling_last() -> None:
    sizes = np.array([[16, 16], [16, 32], [160, 16], [16, 160]])
    prices, groups = np.ones((4, 2), np.int64), np.zeros(4, np.int64)
    items = Items.of(sizes, prices, groups)
    assert merge(items, 3).sizes.tolist() == [[16, 32], [16, 160], [160, 16]]
    heavy = Items.of(np.repeat(sizes, [900, 900, 1, 1], axis=0), np.ones((1802, 2), int), np.zeros(1802, int))
    assert [160, 160] in merge(heavy, 3).sizes.tolist()
    assert merge(heavy, 3, ceiling=200).sizes.tolist() == [[16, 32], [16, 160], [160, 16]]
    with pytest.raises(ValueError, match="2 groups"):
        merge(Items.of(sizes, prices, np.array([0, 0, 1, 1])), 1)


def chat_like(count: int) -> Sizes:
    """Pairs with lognormal lengths: prompts and answers of 150 tokens in the median."""
    rng = np.random.default_rng(0)
    prompts = np.exp(rng.normal(5, 0.8, count)).astype(int) + 1
    answers = np.exp(rng.normal(5, 0.8, (count, 1)) + rng.normal(0, 0.4, (count, 2))).astype(int) + 1
    keep = prompts + answers.max(axis=1) <= 2048
    return Sizes(prompts[keep], answers[keep].max(axis=1), answers[keep].sum(axis=1), 2)


def waste(plan: BatchPlan, sizes: Sizes) -> float:
    slots = sum(plan.shape(position).tokens(sizes.branches) for position in range(plan.end))
    return 1 - float(sizes.prompt.sum() + sizes.scored.sum()) / slots


def test_the_cap_costs_little_padding() -> None:
    """Beside the padding of every batch to its own longest rows: 0.43 by rows, 0.45 for a greedy budget."""
    sizes = chat_like(2000)
    by_rows = waste(BatchPlan(sizes, TrainConfig(batch_size=4)), sizes)
    by_tokens = waste(BatchPlan(sizes, TrainConfig(batch_size=None, tokens_per_batch=16384)), sizes)
    print(f"by rows {by_rows:.3f}, by tokens {by_tokens:.3f}")
    assert by_rows < 0.52
    assert by_tokens < 0.40


def test_a_budget_is_used() -> None:
    sizes = chat_like(2000)
    plan = BatchPlan(sizes, TrainConfig(batch_size=None, tokens_per_batch=16384))
    tokens = [plan.shape(position).tokens(2) for position in range(plan.end)]
    assert np.mean(tokens) > 0.8 * 16384
