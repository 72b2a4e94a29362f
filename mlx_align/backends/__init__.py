"""Frameworks behind one protocol (`backends.base`); each is loaded only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from mlx_align.backends.base import Backend, BackendFactory
from mlx_align.config import BackendConfig


def create(config: BackendConfig) -> Backend:
    """The configured backend.

    Raises:
        UsageError: its framework is not installed, or it has no such device.
    """
    factory = cast(BackendFactory, import_module(f"mlx_align.backends.{config.name}").create)
    return factory(config)
