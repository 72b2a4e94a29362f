"""Batches as token sequences: what predicts a scored token, and which branches are read side by side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_align.backends.sequences import (
    RAGGED,
    Ids,
    groups,
    predicting,
    prefixes_and_suffixes,
    whole_sequences,
)
from mlx_align.batch import Batch
from mlx_align.data import Example, collate

LENGTHS = st.integers(1, 3 * RAGGED)
ROWS = st.integers(1, 4).flatmap(
    lambda k: st.lists(
        st.tuples(st.integers(2, 40), st.lists(LENGTHS, min_size=k, max_size=k)), min_size=1, max_size=3
    )
)


def batch_of(rows: list[tuple[int, list[int]]]) -> Batch:
    """Every token of it is another."""
    fresh = iter(range(1, 100_000))

    def ids(count: int) -> tuple[int, ...]:
        return tuple(next(fresh) for _ in range(count))

    examples = [
        Example(
            name=str(n),
            prompt_ids=ids(prompt),
            branch_ids=tuple(ids(length) for length in lengths),
            prompt_text="",
            question="",
            answers=("",) * len(lengths),
        )
        for n, (prompt, lengths) in enumerate(rows)
    ]
    made = collate(examples)
    real = np.flatnonzero(made.branch_mask.reshape(-1))
    return dataclasses.replace(made, scored=real.astype(np.int32))


def read(batch: Batch, *, shared: bool) -> tuple[Ids, Ids]:
    """(N, L) sequences, and where in each its first branch token is predicted."""
    if shared:
        _, lens, suffixes = prefixes_and_suffixes(batch)
        return suffixes, np.zeros_like(lens)
    ids, starts = whole_sequences(batch)
    return ids[:, :-1], starts - 1


def preceding(batch: Batch) -> Ids:
    """(M,) the token before each scored one, from the batch itself."""
    n, t = np.divmod(batch.scored, batch.branch_ids.shape[1])
    rows = batch.branch_row[n]
    last = batch.prompt_ids[rows, batch.prompt_lens[rows] - 1]
    made: Ids = np.where(t == 0, last, batch.branch_ids[n, t - 1])
    return made


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
@given(rows=ROWS)
def test_each_scored_token_is_predicted_by_the_one_before_it(
    shared: bool, ragged: bool, rows: list[tuple[int, list[int]]]
) -> None:
    batch = batch_of(rows)
    ids, before = read(batch, shared=shared)
    made = groups(batch, before, ids.shape[1], ragged=ragged)
    at, order = predicting(batch, before, made)
    found = [ids[g.members, : g.width].reshape(-1)[own] for g, own in zip(made, at, strict=True)]
    np.testing.assert_array_equal(np.concatenate(found)[order], preceding(batch))


@given(rows=ROWS)
def test_every_branch_is_in_one_group_with_those_of_about_its_length(
    rows: list[tuple[int, list[int]]],
) -> None:
    batch = batch_of(rows)
    ids, before = read(batch, shared=True)
    made = groups(batch, before, ids.shape[1], ragged=True)
    members = np.concatenate([group.members for group in made])
    assert sorted(members.tolist()) == list(range(len(batch.branch_ids)))
    needed = batch.branch_mask.sum(axis=1).astype(int)
    for group in made:
        by_row = needed[group.members].reshape(batch.size, -1)
        assert group.width == by_row.max()
        assert by_row.max(axis=0).min() >= group.width - RAGGED
        assert (np.diff(group.members) > 0).all()  # row by row, as prompts are continued


def test_answers_of_one_length_are_read_together() -> None:
    batch = batch_of([(5, [40, 40 - RAGGED]), (3, [20, 7])])
    ids, before = read(batch, shared=True)
    assert len(groups(batch, before, ids.shape[1], ragged=True)) == 1
    longer = batch_of([(5, [41, 40 - RAGGED]), (3, [20, 7])])
    ids, before = read(longer, shared=True)
    first, second = groups(longer, before, ids.shape[1], ragged=True)
    assert (first.members.tolist(), first.width) == ([0, 2], 41)
    assert (second.members.tolist(), second.width) == ([1, 3], 40 - RAGGED)
