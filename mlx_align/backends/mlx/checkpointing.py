"""Memory for time: what the forward pass computed is dropped and computed again in the backward pass.

    layers      keep only each layer's input; everything inside it is computed twice (Chen et al. 2016,
                arXiv:1604.06174)
    attention   keep everything but the (T, T) attention scores, which MLX stores whenever it differentiates

A checkpoint sees only what is passed to it. mlx-lm's own `grad_checkpoint` passes a layer's parameters and
input, but not what its cache holds, so that with a cache the gradient through a prompt's keys and values is
silently lost; nor the keys and values that some architectures hand from layer to layer in a tuple. Here all
of them are arguments, and a layer that is given anything else that could hold arrays is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from mlx_align.backends.mlx.prefix import Prefix, Recorder
from mlx_align.backends.mlx.substitutes import ATTENTION, Substitutes, files_with
from mlx_align.errors import UsageError

Checkpointing = Literal["none", "attention", "layers"]
CALLED = "called_in_training"
"""The attribute of a checkpointed layer's class that says whether it ever was."""


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


def check_called(model: nn.Module) -> None:
    """See that a model whose layers are checkpointed, and that was called in training, has called them all.

    Raises:
        UsageError: it uses what is inside its layers, so nothing of them would be computed twice.
    """
    if not all(getattr(type(layer), CALLED) for layer in model.layers):
        raise UsageError(
            "this architecture does not call its layers, so they cannot be computed twice",
            where="backend.checkpointing",
            hint="Use backend.checkpointing=attention, or none.",
        )


def _forgetful(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass, so that names of parameters and all other attributes stay as they are."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return kind.__call__(self, *args, **kwargs)
        setattr(made, CALLED, True)
        return _checkpointed(self, kind.__call__, args, kwargs)

    made = type(kind.__name__, (kind,), {"__call__": call, CALLED: False})
    return made


def _checkpointed(layer: nn.Module, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    given = args, kwargs
    leaves = [_allowed(value) for _, value in tree_flatten(given, is_leaf=_is_module)]
    arrays = [value for value in leaves if isinstance(value, mx.array)]
    caches = [value for value in leaves if isinstance(value, Recorder | Prefix)]

    def pure(adapter: Any, arrays: list[mx.array], held: list[list[mx.array]]) -> Any:
        layer.update(adapter)
        twins = [cache.twin(own) for cache, own in zip(caches, held, strict=True)]
        fresh, own = iter(arrays), iter(twins)

        def passed(value: Any) -> Any:
            if isinstance(value, mx.array):
                return next(fresh)
            return next(own) if isinstance(value, Recorder | Prefix) else value

        args, kwargs = tree_map(passed, given, is_leaf=_is_module)
        made = plain(layer, *args, **kwargs), [twin.recorded() for twin in twins]
        # Of an array that is returned twice, MLX would forget one derivative: so each is a view of its own.
        return tree_map(lambda x: mx.expand_dims(x, 0) if isinstance(x, mx.array) else x, made)

    adapter = layer.trainable_parameters()
    made = mx.checkpoint(pure)(adapter, arrays, [cache.held() for cache in caches])
    result, recorded = tree_map(lambda x: mx.squeeze(x, 0) if isinstance(x, mx.array) else x, made)
    layer.update(adapter)
    for cache, taken in zip(caches, recorded, strict=True):
        cache.keep(taken)
    return result


def _is_module(value: Any) -> bool:
    return isinstance(value, nn.Module)  # they are dictionaries too


def _allowed(value: Any) -> Any:
    """An argument of a layer, if a checkpoint can see all of what it holds.

    Raises:
        UsageError: it cannot, so gradients through it would be lost, or it would be written to twice.
    """
    frozen = _is_module(value) and not tree_flatten(value.trainable_parameters())
    if frozen or value is None or isinstance(value, mx.array | Recorder | Prefix | str | int | float):
        return value
    raise UsageError(
        f"this architecture's layers hand on a {type(value).__name__}, so they cannot be computed twice",
        where="backend.checkpointing",
        hint="Use backend.checkpointing=attention, or none.",
    )


def _forgetful_attention(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def attention(queries: mx.array, keys: mx.array, values: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        def pure(queries: mx.array, keys: mx.array, values: mx.array) -> mx.array:
            return original(queries, keys, values, *args, **kwargs)

        result: mx.array = mx.checkpoint(pure)(queries, keys, values)
        return result

    return attention
