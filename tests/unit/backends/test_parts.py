"""Dividing a batch into parts and putting the results together."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_align.backends.base import Scores
from mlx_align.backends.parts import Part, divide, pieces, together
from mlx_align.batch import Batch
from mlx_align.data import Example, collate

LENGTHS = [(9, (4, 7)), (3, (12, 2)), (20, (5, 5)), (6, (1, 3)), (8, (8, 8))]


def batch(*, scores_prompt: bool = False) -> Batch:
    examples = [
        Example(
            f"row:{row}",
            tuple(range(1, prompt + 1)),
            tuple(tuple(range(10 * row + 1, 10 * row + 1 + n)) for n in answers),
            "",
            "",
            ("", ""),
        )
        for row, (prompt, answers) in enumerate(LENGTHS)
    ]
    ref = [[np.full(n, -row - 1.0, np.float32) for n in answers] for row, (_, answers) in enumerate(LENGTHS)]
    return collate(examples, ref_logps=ref, scores_prompt=scores_prompt)


def real(array: np.ndarray, mask: np.ndarray) -> list[list[float]]:
    return [values[: int(own.sum())].tolist() for values, own in zip(array, mask, strict=True)]


@pytest.mark.parametrize("scores_prompt", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_parts_hold_every_row_once_and_unchanged(count: int, scores_prompt: bool) -> None:
    whole = batch(scores_prompt=scores_prompt)
    parts = divide(whole, count)
    assert len(parts) == min(count, whole.size)
    assert sorted(row for part in parts for row in part.rows) == list(range(whole.size))
    for part in parts:
        own = part.batch
        branches = [2 * row + which for row in part.rows for which in range(2)]
        assert own.rows == tuple(whole.rows[row] for row in part.rows)
        for name in ("branch_ids", "ref_logps"):
            expected = real(getattr(whole, name)[branches], whole.branch_mask[branches])
            assert real(getattr(own, name), own.branch_mask) == expected
        lens = whole.prompt_lens[list(part.rows)]
        assert (own.prompt_lens == lens).all()
        assert own.prompt_ids.shape == (len(part.rows), lens.max())  # no wider than its longest row
        assert own.branch_mask[:, -1].any()
        assert own.branch_row.tolist() == [i // 2 for i in range(2 * len(part.rows))]
        masks = [own.branch_mask.reshape(-1)]
        if scores_prompt:
            assert own.prompt_mask is not None
            assert own.prompt_mask.sum(axis=1).tolist() == (lens - 1).tolist()
            assert not own.prompt_mask[:, 0].any()
            masks.append(own.prompt_mask.reshape(-1))
        assert own.scored.tolist() == np.flatnonzero(np.concatenate(masks)).tolist()


def test_parts_are_about_equal() -> None:
    loads = [sum(sum(LENGTHS[row][1]) + LENGTHS[row][0] for row in part.rows) for part in divide(batch(), 2)]
    assert max(loads) <= 1.2 * min(loads)


def test_together() -> None:
    whole = batch()

    def scores(part: Part) -> Scores:
        values = np.array(part.rows, np.float32)
        ids = part.batch.branch_ids * part.batch.branch_mask
        return Scores({"loss": float(values.sum())}, {"margin": values}, ids)

    parts = divide(whole, 3)
    made = together(whole, parts, [scores(part) for part in parts])
    assert made.sums == {"loss": 10.0}
    assert made.metrics["margin"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(made.logps, whole.branch_ids * whole.branch_mask)


def test_scored_prompts_are_not_taken_in_pieces() -> None:
    with pytest.raises(ValueError, match="cannot be taken in pieces"):
        pieces(batch(scores_prompt=True), 1, keep_shape=False)


@pytest.mark.parametrize("keep_shape", [False, True])
def test_pieces_hold_every_branch_once(keep_shape: bool) -> None:
    whole = batch()
    cut = pieces(whole, 1, keep_shape=keep_shape)
    assert [piece.branches for piece in cut] == [(0, 2, 4, 6, 8), (1, 3, 5, 7, 9)]
    for piece in cut:
        own, branches = piece.batch, list(piece.branches)
        expected = real(whole.branch_ids[branches], whole.branch_mask[branches])
        assert real(own.branch_ids, own.branch_mask) == expected
        marked = np.flatnonzero(own.branch_mask)
        assert own.scored[: len(marked)].tolist() == marked.tolist()
        assert len(set(own.scored.tolist())) == len(own.scored)
        if keep_shape:
            assert own.branch_ids.shape == (5, whole.branch_ids.shape[1])
            assert len(own.scored) == min(len(whole.scored), own.branch_ids.size)
        else:
            assert own.branch_mask[:, -1].any()
            assert len(own.scored) == len(marked)
