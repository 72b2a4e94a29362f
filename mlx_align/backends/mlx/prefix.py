"""Keys and values of a prompt, computed once and shared by the branches that continue it.

mlx-lm's models take a cache object for each layer and ask it for three things: the positions of the tokens
(`offset`), the keys and values to attend to (`update_and_fetch`), and who may see whom (`make_mask`). The two
caches here answer so that a prompt is read once (`Recorder`) and every branch then goes on from it
(`Prefix`), all of it differentiable. Nothing in the model has to change.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
from mlx_lm.models.base import create_causal_mask

Held = list[list[mx.array]]
"""The keys and the values of every layer."""


class Recorder:
    """A layer's cache while (B, P) prompts are read: keeps keys and values, both (B, H, P, D).

    The prompts are right-padded, so causality alone hides the padding from every real token.

    Args:
        told: called when keys and values come.

    Attributes:
        window: the sliding window that the model last asked a mask for.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self._told = told
        self.offset = 0
        self.window: int | None = None
        self._recorded: list[mx.array] = []

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keep and return them."""
        self._recorded = [keys, values]
        self._told()
        return keys, values

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """What was recorded, for a layer that attends to another's keys and values."""
        keys, values = self._recorded
        return keys, values

    def held(self) -> list[mx.array]:
        """What it brings into a layer: what another layer has recorded, if two share it."""
        return self._recorded

    def twin(self, held: list[mx.array]) -> Recorder:
        """Another one that holds this."""
        twin = Recorder(self._told)
        twin.keep(held)
        return twin

    def recorded(self) -> list[mx.array]:
        """What it takes out of a layer; empty if the layer keeps no keys and values of its own."""
        return self._recorded

    def keep(self, recorded: list[mx.array]) -> None:
        """Take over what a twin recorded."""
        self._recorded = recorded

    def make_mask(
        self, length: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str:
        """What mlx-lm makes where there is no cache: causal, within the window if there is one."""
        self.window = window_size
        if return_array or (window_size is not None and length > window_size):
            mask: mx.array = create_causal_mask(length, window_size=window_size)
            return mask
        return "causal"


class Prefix:
    """A layer's cache while (N, T) branches are read, N = B * k, after their B prompts.

    Args:
        keys, values: (B, H, P, D) of the prompts' tokens.
        lens: (N,) how many of the P belong to each branch's prompt; also the position of its first token.
    """

    def __init__(self, keys: mx.array, values: mx.array, lens: mx.array) -> None:
        self.keys, self.values, self.offset = keys, values, lens

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """(N, H, P + T, D): each branch's prompt, then the branch."""
        return self._join(self.keys, keys), self._join(self.values, values)

    def held(self) -> list[mx.array]:
        """What it brings into a layer."""
        return [self.keys, self.values, self.offset]

    def twin(self, held: list[mx.array]) -> Prefix:
        """The same cache over other arrays."""
        return Prefix(*held)

    def recorded(self) -> list[mx.array]:
        """What it takes out of a layer: nothing."""
        return []

    def keep(self, recorded: list[mx.array]) -> None:
        """Take over nothing."""

    def _join(self, prompts: mx.array, own: mx.array) -> mx.array:
        k = own.shape[0] // prompts.shape[0]
        # Broadcast, not gather: its gradient is a plain sum over the branches, in a fixed order.
        spread = mx.broadcast_to(prompts[:, None], (prompts.shape[0], k, *prompts.shape[1:]))
        return mx.concatenate([spread.reshape(own.shape[0], *prompts.shape[1:]), own], axis=2)

    def make_mask(self, length: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """(N, 1, T, P + T) boolean: the prompt's real tokens, and the branch up to the token itself."""
        lens = self.offset[:, None, None, None]
        query = mx.arange(length)[:, None]
        prompt = mx.arange(self.keys.shape[2])
        own = mx.arange(length)
        sees_prompt = mx.broadcast_to(prompt < lens, (lens.shape[0], 1, length, prompt.size))
        sees_own = query >= own
        if window_size is not None:
            sees_prompt = sees_prompt & (lens + query < prompt + window_size)
            sees_own = sees_own & (query < own + window_size)
        sees_own = mx.broadcast_to(sees_own, (lens.shape[0], 1, length, length))
        return mx.concatenate([sees_prompt, sees_own], axis=-1)


def held(recorders: list[Recorder]) -> Held:
    """What they recorded.

    Raises:
        ValueError: a layer recorded nothing.
    """
    recorded = [recorder.recorded() for recorder in recorders]
    if not all(recorded):
        raise ValueError("a layer keeps no keys and values")
    return recorded


def continued(held: Held, lens: mx.array) -> list[Prefix]:
    """The caches to read the branches with."""
    return [Prefix(keys, values, lens) for keys, values in held]
