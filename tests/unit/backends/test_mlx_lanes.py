"""Lanes: several graphs computed at once."""

from __future__ import annotations

import threading

import mlx.core as mx
import pytest

from mlx_align.backends.mlx.lanes import Lanes


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_come_in_the_parts_order(count: int) -> None:
    made = Lanes(count).map(lambda n: {"square": mx.array(n) * n}, [3, 1, 2, 5])
    assert [int(part["square"]) for part in made] == [9, 1, 4, 25]


def test_they_are_computed_at_once() -> None:
    """Each part is built in a thread of its own, and waits there for the other to be built too."""
    threads = set()

    def build(n: int) -> mx.array:
        threads.add(threading.current_thread().name)
        return mx.array(n)

    lanes = Lanes(2)
    met = threading.Barrier(2, timeout=60)
    evaluated = lanes._evaluated

    def meeting(build: object, part: int) -> mx.array:
        met.wait()  # breaks unless both lanes are here
        return evaluated(build, part)  # type: ignore[arg-type, return-value]

    lanes._evaluated = meeting  # type: ignore[assignment, method-assign]
    lanes.map(build, [1, 2])
    assert len(threads) == 2


def test_an_error_reaches_the_caller() -> None:
    def build(n: int) -> mx.array:
        raise ValueError(f"part {n}")

    with pytest.raises(ValueError, match="part 1"):
        Lanes(2).map(build, [1, 2])


def test_blas_threads_are_divided_and_given_back() -> None:
    class Blas:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def openblas_set_num_threads(self, count: int) -> None:
            self.asked.append(count)

    blas = Blas()
    Lanes(4, blas).map(mx.array, [1, 2])  # type: ignore[arg-type]
    assert blas.asked == [2, 4]
