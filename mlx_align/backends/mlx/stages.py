"""A graph computed in stages, so that lanes do not hold each other up.

`mx.eval` queues operations and waits while some fifty of them, of all streams together, have not been
computed yet. So a lane that is at large operations fills the queue, and a lane that is at small ones cannot
add its own: on two cores a quarter of the time was lost so. Besides, a queued operation's result has its
memory already. A lane therefore evaluates its graph in stages of so few operations that the others find room:

    forward     after each attention and SwiGLU of `cpu`, and each of the head's chunks (`selected`)
    backward    layer by layer, as the gradient by each layer's adapter becomes known

The operations and their order of rounding are the same, so the results are too, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx


class Stages:
    """Where the graph that is being built may be evaluated up to. One thread builds at a time.

    Args:
        wanted: whether to note anything; a GPU is better left to run ahead.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted, self._forward = wanted, False
        self._noted: list[list[mx.array]] = []
        self._needed = 0

    @contextmanager
    def forward(self) -> Iterator[None]:
        """A forward pass is built: what reaches `after` meanwhile is noted.

        What is built later is not: a checkpointed layer calls the same functions once more on the way back,
        and would be computed long before its turn.
        """
        before, self._forward = self._forward, self._wanted
        try:
            yield
        finally:
            self._forward = before

    def after(self, *arrays: mx.array) -> None:
        """In a forward pass, a stage ends with these."""
        if self._forward:
            self._noted.append(list(arrays))

    def need(self) -> None:
        """What has been noted until now is needed."""
        self._needed = len(self._noted)

    def drop(self) -> None:
        """Forget what was noted since: nothing that is wanted depends on it."""
        del self._noted[self._needed :]

    def backward(self, gradient: Mapping[str, mx.array]) -> None:
        """On the way back, a stage ends with the gradient by each layer, the last layer first."""
        if not self._wanted:
            return
        by_layer: dict[int, list[mx.array]] = {}
        for name, array in gradient.items():
            by_layer.setdefault(_layer(name), []).append(array)
        self._noted.extend(by_layer[layer] for layer in sorted(by_layer, reverse=True))

    def taken(self) -> list[list[mx.array]]:
        """The stages noted since they were last taken."""
        noted, self._noted = self._noted, []
        return noted


def evaluate(stages: list[list[mx.array]]) -> None:
    """Compute one after the other; none is kept for longer than it must, so the list is empty then."""
    stages.reverse()
    while stages:
        mx.eval(stages.pop())


def _layer(name: str) -> int:
    """As 7 of "model.layers.7.mlp.up_proj.lora_a"; -1: it is in no layer."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)
