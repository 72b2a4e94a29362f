"""The parts of a rollout that are arithmetic: advantages, prompts, shapes, checkpoints, pass@k."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlx_align.batch import Batch
from mlx_align.data.shapes import SHAPES
from mlx_align.engine.rollouts.advantages import advantages, signal
from mlx_align.engine.rollouts.batches import Batches
from mlx_align.engine.rollouts.evaluation import pass_at
from mlx_align.engine.rollouts.prompts import Prompts, draw_seed
from mlx_align.engine.rollouts.rollout import Rollout, padded
from mlx_align.engine.rollouts.shapes import PARTS, RolloutShapes
from mlx_align.runs import Checkpoints
from tests import support

NAN = math.nan

# Advantages


def test_advantages_are_the_papers() -> None:
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [0.2, 0.4, 0.9, 0.5]])
    for row, got in zip(rewards, advantages(rewards, "group"), strict=True):
        mean = sum(row) / 4
        deviation = math.sqrt(sum((r - mean) ** 2 for r in row) / 3)
        np.testing.assert_allclose(got, [(r - mean) / (deviation + 1e-4) for r in row], rtol=1e-12)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(advantages(rewards, "none"), centred, rtol=1e-12)
    np.testing.assert_allclose(
        advantages(rewards, "batch"), centred / (rewards.std(ddof=1) + 1e-4), rtol=1e-12
    )


@pytest.mark.parametrize("scaling", ["group", "batch", "none"])
def test_equal_rewards_have_no_advantage_at_all(scaling: str) -> None:
    rewards = np.array([[0.1] * 3, [0.0, 1.0, 0.0], [NAN] * 3, [0.3, NAN, 0.3]])
    got = advantages(rewards, scaling)
    assert (0.1 + 0.1 + 0.1) / 3 != 0.1  # which is why a mean alone would not do
    assert (got[[0, 2, 3]] == 0).all()
    assert (got[1] != 0).all()
    assert signal(rewards).tolist() == [False, True, False, False]


def test_rounding_is_no_signal() -> None:
    rewards = np.array([[0.1 + 0.2, 0.3, 0.3, 0.3], [0.3, 0.3001, 0.3, 0.3]])
    assert signal(rewards).tolist() == [False, True]
    assert not advantages(rewards, "group")[0].any()


def test_a_reward_that_failed_is_as_if_it_had_never_been() -> None:
    with_failure = advantages(np.array([[1.0, NAN, 0.0, 1.0]]), "group")[0]
    without = advantages(np.array([[1.0, 0.0, 1.0]]), "group")[0]
    assert with_failure[1] == 0
    np.testing.assert_array_equal(with_failure[[0, 2, 3]], without)


# Prompts


def test_every_epoch_asks_every_row_once_in_another_order() -> None:
    prompts = Prompts(rows=10, each=4, seed=3)
    asked = list(itertools.chain.from_iterable(prompts.of(number) for number in range(5)))
    assert sorted(asked[:10]) == sorted(asked[10:20]) == list(range(10))
    assert asked[:10] != asked[10:20]
    assert asked[:10] != list(range(10))
    assert prompts.of(3) == Prompts(rows=10, each=4, seed=3).of(3)
    assert prompts.of(3) != Prompts(rows=10, each=4, seed=4).of(3)


def test_a_refill_asks_others_first() -> None:
    prompts = Prompts(rows=10, each=4, seed=3)
    spare = list(prompts.spare(1))
    assert sorted(spare) == list(range(10))
    assert set(spare[-4:]) == set(prompts.of(1))
    assert spare != list(prompts.spare(0))


def test_few_rows_are_asked_again() -> None:
    assert sorted(Prompts(rows=2, each=6, seed=0).of(0)) == [0, 0, 0, 1, 1, 1]


def test_every_call_draws_with_its_own_seed() -> None:
    seeds = {draw_seed(seed, *key) for seed in (0, 1) for key in ((0,), (1,), (0, 0), (0, 1), (1, 0))}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**31 for seed in seeds)


# Shapes and batches


def rollout(lengths: list[int], truncated: list[bool], **logps: bool) -> Rollout:
    """Two groups of two."""
    ids, counted = padded([range(10, 10 + length) for length in lengths])
    scores = -np.arange(ids.size, dtype=np.float32).reshape(ids.shape)
    return Rollout(
        number=3,
        rows=np.array([5, 2]),
        ids=ids,
        lengths=counted,
        truncated=np.array(truncated),
        rewards=np.array([1.0, 0.0, NAN, 1.0]),
        advantages=np.array([1.0, -1.0, 0.0, 0.5], np.float32),
        **dict.fromkeys(logps, scores),
    )


def cut(made: Rollout, *, rows: int, mask_truncated: bool = False) -> list[Batch]:
    shapes = RolloutShapes(rows=rows, branches=2, prompt=40, branch=40)
    return Batches(support.examples("completion"), shapes, mask_truncated).of(made)


def test_what_was_sampled_is_what_is_trained_on() -> None:
    made = rollout([3, 7, 1, 5], [False] * 4, old_logps=True, ref_logps=True)
    (batch,) = cut(made, rows=2)
    examples = support.examples("completion")
    assert batch.rows == (examples[5].name, examples[2].name)
    for which, row in enumerate((5, 5, 2, 2)):
        length = int(made.lengths[which])
        assert batch.branch_ids[which, :length].tolist() == made.ids[which, :length].tolist()
        assert batch.branch_mask[which].sum() == length
        prompt = batch.branch_row[which]
        assert batch.prompt_ids[prompt, : batch.prompt_lens[prompt]].tolist() == list(
            examples[row].prompt_ids
        )
    assert batch.advantages.tolist() == [1.0, -1.0, 0.0, 0.5]
    for got in (batch.old_logps, batch.ref_logps):
        np.testing.assert_array_equal(got[:, :7], made.old_logps)
        assert got.shape == batch.branch_ids.shape
    one, other = cut(made, rows=1)
    assert (one.rows + other.rows, other.advantages.tolist()) == (batch.rows, [0.0, 0.5])
    np.testing.assert_array_equal(other.old_logps[:, :5], made.old_logps[2:, :5])


def test_truncated_completions_leave_the_loss_and_not_the_batch() -> None:
    made = rollout([3, 7, 1, 5], [False, True, False, True])
    (kept,), (masked,) = cut(made, rows=2), cut(made, rows=2, mask_truncated=True)
    np.testing.assert_array_equal(kept.response_mask, kept.branch_mask)
    np.testing.assert_array_equal(masked.branch_mask, kept.branch_mask)
    assert masked.response_mask.sum(axis=1).tolist() == [3, 0, 1, 0]


def test_the_shapes_of_a_run_are_few_and_hold_everything() -> None:
    shapes = RolloutShapes(rows=2, branches=4, prompt=77, branch=300)
    examples = support.examples("completion")
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(400):
        parts = []
        for example in rng.choice(len(examples), 2):
            prompt = tuple(range(int(rng.integers(2, 78))))
            branches = tuple(tuple(range(int(rng.integers(1, 301)))) for _ in range(4))
            parts.append(replace(examples[example], prompt_ids=prompt, branch_ids=branches))
        shape = shapes.fit(parts)
        assert shapes.largest.holds(shape)
        assert shape.scored >= sum(len(ids) for part in parts for ids in part.branch_ids)
        seen.add(shape)
    assert len({shape.prompt for shape in seen}) <= PARTS
    assert len({shape.branch for shape in seen}) <= PARTS
    assert len(seen) <= SHAPES


# Checkpoints


@pytest.mark.parametrize("logps", [{}, {"old_logps": True}, {"old_logps": True, "ref_logps": True}])
def test_a_checkpoint_keeps_all_of_it(tmp_path: Path, logps: dict[str, bool]) -> None:
    made = rollout([3, 7, 1, 5], [False, True, False, False], **logps)
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = checkpoints.save(
        "step-000001",
        write_adapter=lambda folder: (folder / "adapters.safetensors").write_bytes(b"\2" + b"\0" * 7 + b"{}"),
        training={"optimizer.step": np.array(1), **made.state()},
        trainer={},
    )
    back = Rollout.from_state(Checkpoints.load(path).training)
    assert back is not None
    assert vars(back).keys() == vars(made).keys()
    for name, value in vars(made).items():
        np.testing.assert_array_equal(getattr(back, name), value, err_msg=name)
        assert np.asarray(getattr(back, name)).dtype == np.asarray(value).dtype
    assert Rollout.from_state({"optimizer.step": np.array(1)}) is None


# pass@k


@pytest.mark.parametrize(("n", "c", "k"), [(5, 0, 1), (5, 2, 1), (5, 2, 3), (5, 4, 2), (5, 5, 5), (4, 1, 4)])
def test_pass_at_k_counts_the_draws_that_have_a_right_one(n: int, c: int, k: int) -> None:
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at(k, n, c) == pytest.approx(sum(map(any, draws)) / len(draws))
