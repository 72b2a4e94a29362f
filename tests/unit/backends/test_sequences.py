"""Batches as token sequences: what predicts a scored token, and which branches are read side by side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_align.backends.sequences import (
    RAGGED,
    Group,
    Ids,
    Predicted,
    groups,
    places,
    prefixes_and_suffixes,
    whole_sequences,
)
from mlx_align.batch import Batch
from mlx_align.data import Example, collate
from mlx_align.scored import scored_places

LENGTHS = st.integers(1, 3 * RAGGED)
ROWS = st.integers(1, 4).flatmap(
    lambda k: st.lists(
        st.tuples(st.integers(2, 40), st.lists(LENGTHS, min_size=k, max_size=k)), min_size=1, max_size=3
    )
)


def batch_of(
    rows: list[tuple[int, list[int]]], *, scores_prompt: bool = False, fillers: bool = False
) -> Batch:
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
    made = collate(examples, scores_prompt=scores_prompt)
    count = made.branch_ids.size + scores_prompt * made.prompt_ids.size if fillers else None
    return dataclasses.replace(made, scored=scored_places(made.branch_mask, made.prompt_mask, count))


def read(batch: Batch, *, shared: bool) -> tuple[Ids, Predicted]:
    """(N, L) sequences, and where the scored tokens are predicted."""
    if shared:
        _, lens, suffixes = prefixes_and_suffixes(batch)
        return suffixes, Predicted.of(batch, np.zeros_like(lens), apart=True)
    ids, starts = whole_sequences(batch)
    return ids[:, :-1], Predicted.of(batch, starts - 1, apart=False)


def grouped(batch: Batch, ids: Ids, predicted: Predicted, *, ragged: bool) -> list[Group]:
    return groups(predicted, len(batch.branch_ids), batch.branches, ids.shape[1], ragged=ragged)


def preceding(batch: Batch) -> Ids:
    """(M,) the token before each scored one, from the batch itself."""
    before = []
    for of_row, row in zip(batch.branch_ids, batch.branch_row, strict=True):
        last = batch.prompt_ids[row, batch.prompt_lens[row] - 1]
        before.append(np.concatenate([[last], of_row[:-1]]))
    if batch.prompt_mask is not None:
        before += [np.concatenate([[0], prompt[:-1]]) for prompt in batch.prompt_ids]
    made: Ids = np.concatenate(before)[batch.scored]
    return made


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("scores_prompt", [True, False])
@given(rows=ROWS)
def test_each_scored_token_is_predicted_by_the_one_before_it(
    shared: bool, ragged: bool, scores_prompt: bool, rows: list[tuple[int, list[int]]]
) -> None:
    batch = batch_of(rows, scores_prompt=scores_prompt)
    ids, predicted = read(batch, shared=shared)
    made = grouped(batch, ids, predicted, ragged=ragged)
    sequences = [ids[group.members, : group.width] for group in made]
    if shared and scores_prompt:
        prefixes = batch.prompt_ids[:, :-1]
        made.append(Group(len(ids) + np.arange(batch.size, dtype=np.int32), prefixes.shape[1]))
        sequences.append(prefixes)
    tokens = np.concatenate([of_group.reshape(-1) for of_group in sequences])
    np.testing.assert_array_equal(tokens[places(predicted, made)], preceding(batch))


@pytest.mark.parametrize("shared", [True, False])
@given(rows=ROWS)
def test_what_fills_up_the_scored_places_is_somewhere_too(
    shared: bool, rows: list[tuple[int, list[int]]]
) -> None:
    batch = batch_of(rows, scores_prompt=True, fillers=True)
    ids, predicted = read(batch, shared=shared)
    made = grouped(batch, ids, predicted, ragged=False)
    assert predicted.position.min() == 0
    assert predicted.sequence.max() == (len(ids) + batch.size if shared else len(ids)) - 1
    widths = np.full(len(ids) + batch.size, made[0].width)
    widths[len(ids) :] = batch.prompt_ids.shape[1] - 1
    assert (predicted.position < widths[predicted.sequence]).all()


@given(rows=ROWS)
def test_every_branch_is_in_one_group_with_those_of_about_its_length(
    rows: list[tuple[int, list[int]]],
) -> None:
    batch = batch_of(rows)
    made = grouped(batch, *read(batch, shared=True), ragged=True)
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
    assert len(grouped(batch, *read(batch, shared=True), ragged=True)) == 1
    longer = batch_of([(5, [41, 40 - RAGGED]), (3, [20, 7])])
    first, second = grouped(longer, *read(longer, shared=True), ragged=True)
    assert (first.members.tolist(), first.width) == ([0, 2], 41)
    assert (second.members.tolist(), second.width) == ([1, 3], 40 - RAGGED)
