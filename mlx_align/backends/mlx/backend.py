"""MLX on one device: what it is, what it can give, and how a model gets onto it."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from mlx_align.backends.base import MemoryHabits, MemoryUse
from mlx_align.backends.mlx import adapters, blas, longrope
from mlx_align.backends.mlx.habits import habits
from mlx_align.backends.mlx.lanes import Lanes, cores
from mlx_align.backends.mlx.memory import cache_limit, memory_of
from mlx_align.backends.mlx.policy import MlxPolicy
from mlx_align.backends.mlx.stages import Stages
from mlx_align.config import AdapterConfig, BackendConfig, OptimConfig
from mlx_align.errors import UsageError
from mlx_align.paths import typed
from mlx_align.rope_names import older_names_of

MEMORY_SHARE = 0.95
"""Above this share of what the device can give, MLX waits for running work to end before it allocates. The
wired limit is left alone: raising it has been seen to end in kernel panics."""
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def create(config: BackendConfig) -> MlxBackend:
    """MLX on the configured device."""
    return MlxBackend(config)


class MlxBackend:
    """`backends.base.Backend` for MLX.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """

    def __init__(self, config: BackendConfig) -> None:
        has_gpu = mx.is_available(mx.gpu)
        kind = "mps" if mx.metal.is_available() else "cuda"  # by torch's names
        if config.device not in ("auto", "cpu", *(["gpu", kind] if has_gpu else [])):
            name = "GPU" if config.device == "gpu" else config.device
            raise UsageError(
                f"MLX sees no {name} here", where="backend.device", hint="Use backend.device=auto or cpu."
            )
        self._gpu = has_gpu and config.device != "cpu"
        self._config = config
        self._dtype = "float32" if config.dtype == "auto" and not self._gpu else config.dtype
        self._device = mx.Device(mx.gpu if self._gpu else mx.cpu)
        mx.set_default_device(self._device)
        limit = self.memory().limit
        mx.set_cache_limit(cache_limit(limit, self._device))
        mx.set_memory_limit(int(limit * MEMORY_SHARE))

    @property
    def device(self) -> str:
        """mlx:metal, mlx:cuda or mlx:cpu."""
        if not self._gpu:
            return "mlx:cpu"
        return "mlx:metal" if mx.metal.is_available() else "mlx:cuda"

    def versions(self) -> dict[str, str]:
        """Versions of mlx and mlx-lm."""
        return {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm")}

    def advice(self) -> str | None:
        """How to make a Linux CPU 35 times faster, if it is not."""
        from mlx_align.backends.mlx import OPENBLAS

        slow = not self._gpu and sys.platform.startswith("linux") and OPENBLAS is None
        return blas.ADVICE if slow else None

    def memory(self) -> MemoryUse:
        """Bytes in use, at the highest, what the device can give, and buffers kept beyond their limit."""
        limit = memory_of(self._device)
        overkept = max(0, mx.get_cache_memory() - cache_limit(limit, self._device))
        return MemoryUse(mx.get_active_memory(), mx.get_peak_memory(), limit, overkept=overkept)

    def habits(self) -> MemoryHabits:
        """How MLX uses memory on this device."""
        float_bytes = None if self._dtype == "auto" else DTYPES[self._dtype].size
        return habits(self.device, float_bytes, self.memory().limit, compiled=self._compiled)

    def load_policy(
        self,
        model: Path,
        adapter: AdapterConfig,
        optim: OptimConfig | None,
        seed: int,
        longest: int | None = None,
    ) -> MlxPolicy:
        """Load a model folder and put an adapter on it."""
        base = self._load(model)
        if longest is not None:
            longrope.settle(base, longest)
        if adapter.start is not None:
            facts = adapters.attach_saved(base, typed(adapter.start))
        else:
            facts = adapters.attach_new(base, adapter, seed)
        return self._policy(base, facts, optim)

    def load_for_generation(self, model: Path, adapter: Path | None) -> MlxPolicy:
        """Load a model folder, with a saved adapter or without one."""
        base = self._load(model)
        facts: dict[str, Any] = adapters.attach_saved(base, adapter) if adapter else {}
        return self._policy(base, facts, None)

    def _policy(self, base: nn.Module, facts: dict[str, Any], optim: OptimConfig | None) -> MlxPolicy:
        from mlx_align.backends.mlx import OPENBLAS

        return MlxPolicy(
            base,
            facts,
            optim,
            self.memory,
            compiled=self._compiled,
            checkpointing=self._config.checkpointing,
            # What is compiled is compiled for a shape, so a batch keeps the one it has been given.
            lanes=None if self._gpu or self._compiled else Lanes(cores(), OPENBLAS, Stages(wanted=True)),
        )

    @property
    def _compiled(self) -> bool:
        # The CPU has few kernels to launch, and MLX would call a C++ compiler for each fused one.
        return self._gpu if self._config.compile == "auto" else self._config.compile == "on"

    def _load(self, folder: Path) -> nn.Module:
        try:
            with longrope.understood():
                model, _ = load_model(folder, model_config=older_names_of(folder))
        except (ValueError, OSError, KeyError, TypeError, RuntimeError, ArithmeticError) as error:
            raise UsageError(
                f"mlx-lm cannot load this model: {error}",
                where=str(folder),
                hint="It must be a text model of an architecture that mlx-lm knows, in its folder layout.",
            ) from None
        if self._dtype != "auto":
            model.set_dtype(DTYPES[self._dtype])
        model.freeze()
        _check_finite(model, folder)
        return model


def _check_finite(model: nn.Module, folder: Path) -> None:
    for name, value in tree_flatten(model.parameters()):
        if mx.issubdtype(value.dtype, mx.floating) and not mx.all(mx.isfinite(value)).item():
            raise UsageError(f"the weight '{name}' is not finite", where=str(folder))
