"""LongRoPE: factors for short sequences and others for long ones, read as transformers reads Phi 3 with them.

Phi 3.5, Phi 4 mini, Phi MoE and MiniCPM have two lists of factors that their frequencies are divided by: one
for sequences of up to `original_max_position_embeddings` tokens (the border), one for longer ones. mlx-lm's
SuScaledRoPE has the second list only and reads every sequence with it, so a short one goes through another
network than in any other program. While `understood` is open, a model that is loaded gets `LongRoPE` instead.

A sequence must be read with one list: a query and a key that were turned by different ones do not tell how
far apart they are. Programs differ in when they choose. transformers does at every call, by the largest
position in the batch, padding included, and where a decoded sequence crosses the border its Phi 3 reads all
of it anew. Its Phi MoE keeps the short list at any length, and changes the loudness alone: beyond the border
it is another network there than here, on the torch backend too. llama.cpp chooses when it opens a context, by
its size. Here

    a run         once, by the longest sequence among its rows (`settle`): each is the same in the reference,
                  in rollouts and in training, whatever is beside it in a batch. What the run generates
                  besides (samples, a judge's words) is read so too, should it be longer
    else a batch  as in transformers, by its width; one that is wider than the border does not share prompts,
                  because they are read before their branches
    a completion  before its prompt is read, by the most tokens it may come to have, so that nothing that a
                  cache holds is of the other list

mlx-lm's server keeps caches from one request to the next, and reads prompts in pieces before anyone knows how
long they become. It has the long list, as everywhere in mlx-lm, and a person is told (`NOTE`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.rope_utils import SuScaledRoPE

from mlx_align.backends.positions import Positions
from mlx_align.rope_names import by_length

NOTE = (
    "mlx-lm reads all texts with this model's position factors for long ones, short texts too, for which the "
    "model has others: its answers here can differ from those of `mlx-align generate` and of other programs."
)


class LongRoPE(SuScaledRoPE):  # type: ignore[misc]
    """Both lists of factors; mlx-lm's class becomes this one after it was made.

    Attributes:
        long: whether it is the long list that is used; None: that which the sequence's length asks for.
    """

    def remember(self, given: dict[str, Any]) -> None:
        """Take the short list out of what mlx-lm's class was made with, by the names of its arguments."""
        exponents = mx.arange(0, self.dim, 2, dtype=mx.float32) / self.dim
        self._short_freqs = mx.array(given["short_factor"], mx.float32) * given["base"] ** exponents
        self._short_scale = given["short_mscale"] or self._scale
        self.long: bool | None = None
        mx.eval(self._freqs, self._short_freqs)  # a lane cannot compute what belongs to another thread

    def __call__(self, x: mx.array, offset: int | mx.array = 0) -> mx.array:
        """Turn (N, H, L, D) queries or keys.

        Args:
            x: of L tokens that follow one another.
            offset: the position of the first, for all rows or (N,) for each.
        """
        long: bool | mx.array | None = self.long
        if long is None:
            long = offset + x.shape[-2] > self.original_max_position_embeddings
        if isinstance(long, mx.array):
            long = long.reshape(-1, *[1] * (x.ndim - 1))
            return mx.where(long, self._turned(x, offset, long=True), self._turned(x, offset, long=False))
        return self._turned(x, offset, long=long)

    def _turned(self, x: mx.array, offset: int | mx.array, *, long: bool) -> mx.array:
        scaled = x.at[..., : self.dim].multiply(self._scale if long else self._short_scale)
        freqs = self._freqs if long else self._short_freqs
        return mx.fast.rope(
            scaled, self.dim, traditional=False, base=None, scale=1.0, offset=offset, freqs=freqs
        )


@contextmanager
def understood() -> Iterator[None]:
    """While it is open, what would be mlx-lm's SuScaledRoPE in a model that is loaded is a `LongRoPE`.

    Where both lists are the same, mlx-lm's own is right. Only what makes one is told the short list, so it is
    listened to: architectures differ in how their configurations have it, and mlx-lm keeps nothing of it.
    """
    plain = SuScaledRoPE.__init__
    names = inspect.signature(plain)

    def make(rope: Any, *args: Any, **kwargs: Any) -> None:
        plain(rope, *args, **kwargs)
        given = names.bind(rope, *args, **kwargs)
        given.apply_defaults()
        if by_length(given.arguments):
            rope.__class__ = LongRoPE
            rope.remember(given.arguments)

    SuScaledRoPE.__init__ = make
    try:
        yield
    finally:
        SuScaledRoPE.__init__ = plain


def settle(model: nn.Module, longest: int) -> None:
    """Read everything with the list that a sequence of so many tokens asks for, from now on."""
    for rope in _open(model):
        rope.long = longest > rope.original_max_position_embeddings


def positions(model: nn.Module) -> Positions | None:
    """How the model chooses between its lists; None if it has one at most, or no sequence is ever long."""
    ropes = [module for module in model.modules() if isinstance(module, LongRoPE)]
    first = min(ropes, key=lambda rope: rope.original_max_position_embeddings, default=None)
    if first is None or not math.isfinite(first.original_max_position_embeddings):
        return None
    return Positions(int(first.original_max_position_embeddings), first.long)


def border(model: nn.Module) -> float:
    """Tokens of the longest sequence that is read with the short list, where lengths count; else infinite."""
    return min((rope.original_max_position_embeddings for rope in _open(model)), default=math.inf)


@contextmanager
def chosen(model: nn.Module, *, long: bool) -> Iterator[None]:
    """While it is open, what is not settled reads everything with one list: the long or the short one."""
    ropes = _open(model)
    for rope in ropes:
        rope.long = long
    try:
        yield
    finally:
        for rope in ropes:
            rope.long = None


def _open(model: nn.Module) -> list[LongRoPE]:
    return [module for module in model.modules() if isinstance(module, LongRoPE) and module.long is None]
