"""Frameworks behind one protocol (`backends.base`); each is loaded only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mlx_align import launched
from mlx_align.backends.base import ALONE, Backend, BackendFactory, World
from mlx_align.config import BackendConfig

if TYPE_CHECKING:
    from mlx_align.export.evidence import Reader


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


def mlx_reads_alike(model: Path) -> bool:
    """Whether mlx-lm by itself reads a model folder's rotation as the backend "mlx" does; it is installed."""
    return cast(bool, import_module("mlx_align.backends.mlx.plain").reads_alike(model))


def torch_reader(base: Path, adapter: Path | None = None, dtype: str = "float32") -> Reader:
    """A model folder in the Hugging Face layout as transformers reads it, with a PEFT adapter or without one.

    It is computed on the CPU, in this dtype.

    Raises:
        UsageError: torch or peft is not installed, or transformers cannot load the model.
        AlignError: peft cannot put this adapter on it.
    """
    return cast("Reader", import_module("mlx_align.backends.torch.readers").peft_reader(base, adapter, dtype))
