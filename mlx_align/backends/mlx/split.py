"""An mlx-lm model in two parts: the layers, which give features, and the head, which gives logits.

mlx-lm's models compute both in one call. Logits are wanted only where tokens are scored, so the call is
made on a shallow twin of the model, in which the module that holds the layers is replaced by a stand-in:
one that keeps what the layers return, or one that returns given features instead. Whatever stands around
the layers (tied or quantised heads, soft caps, scales) is the model's own code in both cases.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from mlx_align.backends.mlx.prefix import Recorder

Cache = list[Any] | None


class SplitModel:
    """`features` and `logits` of an mlx-lm model.

    Args:
        model: called with (N, L) ids it returns (N, L, V) logits.
        whole: do not split it, even if it could be.
        cached: give it caches where none are given, because it is another network without them (`probe`).

    Attributes:
        whole: the layers cannot be told from the head: features are the logits themselves.
    """

    def __init__(self, model: nn.Module, *, whole: bool = False, cached: bool = False) -> None:
        self.model, self._cached = model, cached
        self._caches = len(make_prompt_cache(model))
        self._path = [] if whole else _path_to_layers(model)
        self.whole = not self._path

    def recorders(self, told: Callable[[], None] = lambda: None) -> list[Recorder]:
        """Fresh caches to read prompts with, as many as the model has: layers that share one have it once.

        Args:
            told: called when keys and values come to one of them.
        """
        return [Recorder(told) for _ in range(self._caches)]

    def features(self, ids: mx.array, cache: Cache = None) -> mx.array:
        """(N, L, D) what the head would be given for (N, L) ids."""
        if cache is None and self._cached:
            cache = self.recorders()
        if self.whole:
            logits: mx.array = self.model(ids, cache=cache)
            return logits
        kept: list[mx.array] = []

        def keep(inner: nn.Module, *args: Any, **kwargs: Any) -> mx.array:
            kept.append(inner(*args, **kwargs))
            return kept[0]

        self._twin(keep)(ids, cache=cache)  # the head's part of the graph is never evaluated
        return kept[0]

    def logits(self, features: mx.array) -> mx.array:
        """(m, V) logits from (m, D) features."""
        if self.whole:
            return features
        twin = self._twin(lambda inner, *args, **kwargs: features[None])  # one sequence of m tokens
        logits: mx.array = twin(mx.zeros((1, features.shape[0]), mx.int32))
        return logits[0]

    def _twin(self, call: Callable[..., mx.array]) -> nn.Module:
        """A shallow copy of the model whose layers' module is replaced; shares every parameter."""
        top = twin = copy.copy(self.model)
        for name in self._path[:-1]:
            twin[name] = copy.copy(twin[name])
            twin = twin[name]
        twin[self._path[-1]] = _StandIn(twin[self._path[-1]], call)
        return top


class _StandIn:
    """Looks like a module, but calls something else."""

    def __init__(self, inner: nn.Module, call: Callable[..., mx.array]) -> None:
        self._inner, self._call = inner, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        return self._call(self._inner, *args, **kwargs)


def _path_to_layers(model: nn.Module) -> list[str]:
    """The attributes that lead to the module whose own list holds the layers; empty: the model itself."""
    first = model.layers[0]
    for name, module in model.named_modules():
        lists = (value for value in module.values() if isinstance(value, list) and value)
        if any(value[0] is first for value in lists):
            return name.split(".") if name else []
    return []
