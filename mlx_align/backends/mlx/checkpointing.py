"""Memory for time: what the forward pass computed is dropped and computed again in the backward pass.

    layers      keep only each layer's input; everything inside it is computed twice (Chen et al. 2016,
                arXiv:1604.06174)
    attention   keep everything but the (T, T) attention scores, which MLX stores whenever it differentiates

A checkpoint sees only what is passed to it. mlx-lm's own `grad_checkpoint` passes a layer's parameters and
input, but not what its cache holds, so that with a cache the gradient through a prompt's keys and values is
silently lost. Here they are arguments like the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_align.backends.mlx.prefix import Prefix, Recorder
from mlx_align.backends.mlx.substitutes import ATTENTION, Substitutes, files_with
from mlx_align.errors import UsageError

Checkpointing = Literal["none", "attention", "layers"]


def checkpointed(model: nn.Module, what: Checkpointing) -> Substitutes:
    """Prepare a model, and return the functions that must stand in its files while a gradient is made.

    Raises:
        UsageError: the model's file does not use mlx-lm's attention function.
    """
    if what == "layers":
        for layer in model.layers:
            layer.__class__ = _forgetful(type(layer))
    if what != "attention":
        return {}
    if not files_with(model, ATTENTION):
        raise UsageError(
            "this architecture computes attention itself, so it cannot be checkpointed alone",
            where="backend.checkpointing",
            hint="Use backend.checkpointing=layers, which saves more.",
        )
    return {ATTENTION: _forgetful_attention}


def _forgetful(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass, so that names of parameters and all other attributes stay as they are."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return kind.__call__(self, *args, **kwargs)
        return _checkpointed(self, kind.__call__, args, kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def _checkpointed(layer: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    given = [*args, *kwargs.values()]
    arrays = [value for value in given if isinstance(value, mx.array)]
    cache = next((value for value in given if isinstance(value, Recorder | Prefix)), None)

    def pure(adapter: Any, arrays: list[mx.array], held: list[mx.array]) -> Any:
        layer.update(adapter)
        own = None if cache is None else cache.twin(held)
        fresh = iter(arrays)
        values = [next(fresh) if isinstance(v, mx.array) else own if v is cache else v for v in given]
        result = plain(layer, *values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))
        return result, [] if own is None else own.recorded()

    adapter = layer.trainable_parameters()
    held = [] if cache is None else cache.held()
    result, recorded = mx.checkpoint(pure)(adapter, arrays, held)
    layer.update(adapter)
    if cache is not None:
        cache.keep(recorded)
    return result


def _forgetful_attention(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def attention(queries: mx.array, keys: mx.array, values: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        def pure(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
            return original(queries, keys, values, *args, **kwargs)

        result: mx.array = mx.checkpoint(pure)(queries, keys, values)
        return result

    return attention
