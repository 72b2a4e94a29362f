"""Frameworks behind one protocol (`backends.base`); each is loaded only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from mlx_align import launched
from mlx_align.backends.base import ALONE, Backend, BackendFactory, World
from mlx_align.config import BackendConfig


def create(config: BackendConfig) -> Backend:
    """The configured backend.

    Raises:
        UsageError: its framework is not installed, or it has no such device.
    """
    factory = cast(BackendFactory, import_module(f"mlx_align.backends.{config.name}").create)
    return factory(config)


def join() -> World:
    """The ranks that this process belongs to; it waits for the others if `mlx.launch` has started several.

    Raises:
        AlignError: they cannot be reached.
    """
    if launched.rank() is None:
        return ALONE
    return cast(World, import_module("mlx_align.backends.mlx.world").join())
