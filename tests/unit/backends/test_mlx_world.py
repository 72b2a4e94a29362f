"""What MLX hands over when a rank has gone is not believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_align.backends.mlx.world import MlxWorld
from mlx_align.errors import AlignError

Collective = Callable[..., mx.array]
LOST = "another rank has gone"


class Group:
    """Rank 0 of two."""

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 2


def twice(array: mx.array, group: Any) -> mx.array:
    """The other rank gives what this one does."""
    return mx.concatenate([array, array])


def doubled(array: mx.array, group: Any) -> mx.array:
    return array + array


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MlxWorld]:
    def make(gather: Collective = twice, add: Collective = doubled) -> MlxWorld:
        monkeypatch.setattr(mx.distributed, "all_gather", gather)
        monkeypatch.setattr(mx.distributed, "all_sum", add)
        return MlxWorld(Group())

    return make


def test_values_come_back_exactly(world: Any) -> None:
    value = {"a": [0.1, math.inf, None, "ß", 2**60], "b": True}
    assert world().gather(value) == [value, value]
    assert world().gather(None) == [None, None]
    assert math.isnan(world().gather(math.nan)[1])


def test_arrays_of_any_type_and_shape_are_added(world: Any) -> None:
    state = {
        "w": np.array([[0.1, -2.0]], np.float32),
        "a": np.float32(3.0).reshape(()),
        "n": np.array([200, 7], np.uint8),
        "none": np.zeros((0, 2), np.float32),
    }
    total = world().sum(state)
    assert total.keys() == state.keys()
    for name, value in state.items():
        assert (total[name].shape, total[name].dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(total[name], value + value)


def test_memory_that_was_never_sent_is_noticed(world: Any) -> None:
    with pytest.raises(AlignError, match=LOST):
        world(lambda array, group: mx.concatenate([array, mx.zeros_like(array)])).gather(1)


def test_an_old_message_is_noticed(world: Any) -> None:
    old: dict[int, mx.array] = {}

    def stale(array: mx.array, group: Any) -> mx.array:
        return mx.concatenate([array, old.setdefault(array.size, array)])

    ranks = world(stale)
    assert ranks.gather(1) == [1, 1]
    with pytest.raises(AlignError, match=LOST):
        ranks.gather(1)


def test_a_sum_that_lacks_a_rank_is_noticed(world: Any) -> None:
    with pytest.raises(AlignError, match=LOST):
        world(add=lambda array, group: array).sum({"w": np.ones(3, np.float32)})


def test_a_sum_counts_only_when_all_ranks_have_it(world: Any) -> None:
    with pytest.raises(AlignError, match=LOST):
        world(lambda array, group: mx.concatenate([array, mx.zeros_like(array)])).sum(
            {"w": np.ones(3, np.float32)}
        )


def test_what_mlx_says_is_told(world: Any) -> None:
    def fails(array: mx.array, group: Any) -> mx.array:
        raise RuntimeError("[ring] connection to a peer was lost")

    with pytest.raises(AlignError, match="connection to a peer was lost") as caught:
        world(fails).gather(1)
    assert "runs resume" in str(caught.value.hint)
