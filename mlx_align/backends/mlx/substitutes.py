"""Other functions in the place of those that mlx-lm's model files import, for as long as a graph is built."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType

import mlx.core as mx
import mlx.nn as nn

ATTENTION, SWIGLU = "scaled_dot_product_attention", "swiglu"
"""Functions that most of mlx-lm's model files import and call."""

Function = Callable[..., mx.array]
Substitutes = Mapping[str, Callable[[Function], Function]]
"""A function's name in the model files -> what makes its substitute out of it."""
Scope = Callable[[], AbstractContextManager[None]]


def files_with(model: nn.Module, name: str) -> list[ModuleType]:
    """The files of the model's modules that have imported a function of this name."""
    files = {type(module).__module__ for module in model.modules()}
    return [sys.modules[file] for file in sorted(files) if hasattr(sys.modules[file], name)]


def scope(model: nn.Module, *substitutes: Substitutes) -> Scope:
    """What must be open while a graph is built with substitutes; a later one is made out of an earlier.

    When it is closed, arrays that the model has put in the place of its own are gone too: they belong to the
    graph, and with it to one lane's thread.
    """
    names = {name: None for group in substitutes for name in group}
    places = [(file, name) for name in names for file in files_with(model, name)]
    rewritten = _rewritten(model)

    @contextmanager
    def substituted() -> Iterator[None]:
        originals = {place: getattr(*place) for place in places}
        try:
            for file, name in places:
                for group in substitutes:
                    if name in group:
                        setattr(file, name, group[name](getattr(file, name)))
            yield
        finally:
            for (file, name), original in originals.items():
                setattr(file, name, original)
            for module, name, array in rewritten:
                module[name] = array

    return substituted


def _rewritten(model: nn.Module) -> list[tuple[nn.Module, str, mx.array]]:
    """The arrays that a model replaces while it is read, as gemma3n does with weights that it clips."""
    arrays = [
        (module, name, value)
        for module in model.modules()
        for name, value in module.items()
        if isinstance(value, mx.array)
    ]
    model(mx.zeros((1, 2), mx.int32))  # never evaluated
    found = [(module, name, array) for module, name, array in arrays if module[name] is not array]
    for module, name, array in found:
        module[name] = array
    mx.eval([array for _, _, array in found])
    return found
